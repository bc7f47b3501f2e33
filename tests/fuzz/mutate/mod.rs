//! Makes inputs: from nothing, from samples byte by byte, from samples value by value.

pub mod bytes;
pub mod hostile;
pub mod json;
pub mod resp;
pub mod xml;

use fastrand::Rng;

use self::json::Samples;

/// A hostile input of JSON's kind: most of them nearly right, since what is nearly right gets furthest.
pub fn json_input(rng: &mut Rng, samples: &Samples) -> Vec<u8> {
    match rng.u32(..1000) {
        0..60 => bytes::arbitrary(rng),
        60..120 => json::soup(rng, samples),
        120..280 => {
            let mut text = samples.pick(rng).rendered();
            bytes::mutate(rng, &mut text);
            text
        }
        280..300 => hostile::input(rng, samples),
        300..330 => samples.pick(rng).rendered(),
        _ => {
            let mut tree = samples.pick(rng).clone();
            for _ in 0..=rng.u32(..4) {
                json::mutate(rng, samples, &mut tree);
            }
            let mut text = tree.rendered();
            if rng.u32(..4) == 0 {
                bytes::mutate(rng, &mut text);
            }
            text
        }
    }
}
