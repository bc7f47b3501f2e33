use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{AT_ONCE, entry_failure, received_at, secs, track};
use crate::ops::metrics::Metrics;
use crate::pipeline::context::Sent;
use crate::pipeline::ending::Ending;
use crate::pipeline::in_flight::{InFlight, InFlightDelivery};

fn tracker() -> (InFlight, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new().unwrap());
    (InFlight::new(2, Arc::clone(&metrics)), metrics)
}

fn tracked(in_flight: &InFlight, id: &str, at: Instant) -> InFlightDelivery {
    track(in_flight, received_at(id, "{}", at))
}

/// Extends what is due, by the tracker's timeout, and says what that was.
fn extend(in_flight: &InFlight, now: Instant, sent: &Sent) -> Vec<String> {
    let extensions = in_flight.begin_extensions(10, now);
    let extended = extensions.into_iter().map(|(id, receipt_handle)| {
        in_flight.end_extension(id, now + in_flight.timeout(), sent);
        receipt_handle.0
    });
    extended.collect()
}

fn refused() -> Sent {
    Sent::Refused(entry_failure("ReceiptHandleIsInvalid", true))
}

fn succeed(in_flight: &InFlight, now: Instant) -> Vec<String> {
    extend(in_flight, now, &Sent::Done)
}

fn is_lost(in_flight: &InFlight, delivery: &InFlightDelivery, now: Instant) -> bool {
    in_flight.are_held([delivery.id], now) == [false]
}

#[test]
fn a_message_is_extended_at_half_of_its_time_counted_from_its_receipt() {
    let ((in_flight, _), start) = (tracker(), Instant::now());
    let first = tracked(&in_flight, "1", start);
    let _second = tracked(&in_flight, "2", start + secs(10));
    assert!(succeed(&in_flight, start + secs(14)).is_empty());
    assert_eq!(succeed(&in_flight, start + secs(15)), ["1"]);
    assert!(succeed(&in_flight, start + secs(15)).is_empty(), "not twice");
    assert_eq!(succeed(&in_flight, start + secs(25)), ["2"]);
    assert_eq!(in_flight.time_left(first.id, start + secs(25)), secs(20));
    assert_eq!(succeed(&in_flight, start + secs(30)), ["1"]);
}

#[test]
fn the_most_urgent_messages_are_extended_first_and_no_more_than_a_call_takes() {
    let ((in_flight, _), start) = (tracker(), Instant::now());
    let ages = [3, 1, 2].map(|age| tracked(&in_flight, &age.to_string(), start + secs(age)));
    let due = in_flight.begin_extensions(2, start + secs(20));
    let ids: Vec<&str> = due.iter().map(|(_, receipt_handle)| receipt_handle.0.as_str()).collect();
    assert_eq!(ids, ["1", "2"]);
    drop(ages);
}

#[test]
fn what_is_recorded_is_not_extended_and_the_gauge_follows_until_it_is_removed() {
    let ((in_flight, metrics), start) = (tracker(), Instant::now());
    let recorded = in_flight.record(vec![(tracked(&in_flight, "1", start), Ending::Delete)]);
    assert_eq!(metrics.in_flight.get(), 1);
    assert!(succeed(&in_flight, start + secs(20)).is_empty());
    in_flight.remove([recorded[0].id]);
    assert_eq!(metrics.in_flight.get(), 0);
}

#[test]
fn a_message_whose_time_is_over_or_that_the_queue_has_forgotten_is_lost() {
    let ((in_flight, metrics), start) = (tracker(), Instant::now());
    in_flight.set_timeout(secs(30));
    let expired = tracked(&in_flight, "1", start);
    assert!(!is_lost(&in_flight, &expired, start + secs(29)));
    assert!(is_lost(&in_flight, &expired, start + secs(30)));
    assert_eq!(metrics.in_flight.get(), 0);
    assert!(succeed(&in_flight, start + secs(31)).is_empty());
    let forgotten = tracked(&in_flight, "2", start);
    extend(&in_flight, start + secs(16), &refused());
    assert!(is_lost(&in_flight, &forgotten, start + secs(16)));
}

#[test]
fn an_assumed_timeout_is_no_proof_that_a_message_is_lost_but_an_extension_is() {
    let ((in_flight, _), start) = (tracker(), Instant::now());
    let held = tracked(&in_flight, "1", start);
    assert!(!is_lost(&in_flight, &held, start + secs(600)), "the queue's may be longer");
    assert_eq!(in_flight.time_left(held.id, start + secs(600)), secs(0));
    assert_eq!(succeed(&in_flight, start + secs(600)).len(), 1, "it is still extended");
    assert!(!is_lost(&in_flight, &held, start + secs(629)));
    assert!(is_lost(&in_flight, &held, start + secs(630)));
}

#[test]
fn a_shorter_timeout_that_the_queue_tells_later_holds_for_what_was_received_before() {
    let ((in_flight, _), start) = (tracker(), Instant::now());
    let _held = tracked(&in_flight, "1", start);
    in_flight.set_timeout(secs(4));
    assert_eq!(succeed(&in_flight, start + secs(2)), ["1"]);
}

#[test]
fn a_message_is_not_hidden_for_more_than_twelve_hours_and_is_held_until_then() {
    for timeout in [secs(12 * 3_600), secs(3_600)] {
        let ((in_flight, _), start) = (tracker(), Instant::now());
        in_flight.set_timeout(timeout);
        let held = tracked(&in_flight, "1", start);
        let minutes: Vec<u64> =
            (0..12 * 60).filter(|minute| succeed(&in_flight, start + secs(60 * minute)).len() == 1).collect();
        let last = minutes.last().map_or(start, |minute| start + secs(60 * minute));
        assert!(last + timeout <= start + secs(12 * 3_600), "{minutes:?}");
        assert!(!is_lost(&in_flight, &held, start + secs(11 * 3_600)));
        assert!(is_lost(&in_flight, &held, start + secs(12 * 3_600)));
    }
}

#[test]
fn an_extension_that_failed_is_made_again_a_little_later() {
    let ((in_flight, _), start) = (tracker(), Instant::now());
    let held = tracked(&in_flight, "1", start);
    let at_half = start + secs(15);
    assert_eq!(extend(&in_flight, at_half, &Sent::Failed).len(), 1);
    assert!(!is_lost(&in_flight, &held, at_half));
    assert!(succeed(&in_flight, at_half).is_empty(), "not at once");
    assert_eq!(succeed(&in_flight, at_half + secs(4)).len(), 1);
}

#[test]
fn what_is_recorded_during_its_extension_says_so_and_is_not_lost_by_it() {
    let ((in_flight, _), start) = (tracker(), Instant::now());
    let held = tracked(&in_flight, "1", start);
    let under_way = in_flight.begin_extensions(10, start + secs(15));
    let recorded = in_flight.record(vec![(held, AT_ONCE)]).remove(0);
    assert!(in_flight.is_being_extended(recorded.id));
    in_flight.end_extension(under_way[0].0, start + secs(45), &refused());
    assert!(!in_flight.is_being_extended(recorded.id));
    assert_eq!(in_flight.time_left(recorded.id, start + secs(15)), secs(15));
}

#[test]
fn a_release_takes_over_once_what_is_neither_recorded_nor_lost_and_leaves_its_holder_nothing() {
    let ((in_flight, metrics), start) = (tracker(), Instant::now());
    let _lost = tracked(&in_flight, "lost", start);
    extend(&in_flight, start + secs(16), &refused());
    let _recorded = in_flight.record(vec![(tracked(&in_flight, "recorded", start), Ending::Delete)]);
    let held = tracked(&in_flight, "held", start);

    let released = in_flight.take_over(start);
    assert_eq!(released.len(), 1);
    assert_eq!((released[0].receipt_handle.0.as_str(), released[0].ending), ("held", AT_ONCE));
    assert!(in_flight.take_over(start).is_empty());
    assert!(in_flight.record(vec![(held, Ending::Delete)]).is_empty());
    assert_eq!(metrics.in_flight.get(), 2, "recorded and released");
}

#[test]
fn what_is_taken_over_during_its_extension_says_so_until_that_has_ended() {
    let ((in_flight, _), start) = (tracker(), Instant::now());
    let _held = tracked(&in_flight, "1", start);
    let under_way = in_flight.begin_extensions(10, start + secs(15));
    let released = in_flight.take_over(start + secs(15));
    assert!(in_flight.is_being_extended(released[0].id));
    in_flight.end_extension(under_way[0].0, start + secs(45), &Sent::Done);
    assert!(!in_flight.is_being_extended(released[0].id));
}

#[test]
fn what_is_released_becomes_visible_when_the_last_open_poll_can_no_longer_take_it() {
    let ((in_flight, _), now) = (tracker(), Instant::now());
    let visible_in = |at| {
        tracked(&in_flight, "1", now);
        in_flight.take_over(at)[0].ending.visible_in()
    };
    in_flight.open_poll(1, now + Duration::from_millis(9_500));
    assert_eq!(visible_in(now), secs(11));
    assert_eq!(visible_in(now + secs(60)), secs(1), "its answer is under way");
    in_flight.close_poll(1, Vec::new());
    assert_eq!(visible_in(now), secs(0));
}

#[test]
fn what_comes_or_is_dropped_in_the_release_phase_is_released_by_the_next_look() {
    let ((in_flight, _), now) = (tracker(), Instant::now());
    assert!(in_flight.take_over(now).is_empty());
    drop(tracked(&in_flight, "late", now));
    let released = in_flight.take_over(now);
    assert_eq!(released[0].receipt_handle.0, "late");
}

#[test]
fn a_drain_waits_for_what_is_in_flight_and_for_a_moment_for_open_polls() {
    let ((in_flight, _), now) = (tracker(), Instant::now());
    assert!(in_flight.is_drained(true));
    let held = tracked(&in_flight, "1", now);
    assert!(!in_flight.is_drained(false));
    in_flight.remove([held.id]);
    in_flight.open_poll(0, now + secs(20));
    assert!(!in_flight.is_drained(true));
    assert!(in_flight.is_drained(false), "it may wait for long in vain");
    in_flight.close_poll(0, Vec::new());
    assert!(in_flight.is_drained(true));
}
