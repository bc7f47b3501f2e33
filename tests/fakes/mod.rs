//! Neighbours of ours that fail on purpose: what the real ones do rarely, done when a story asks for it.

pub mod proxy;
