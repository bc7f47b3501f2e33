//! A panic as one error line. It replaces the standard hook, which writes several lines to stderr; Sentry's hook
//! is installed after it and calls it.

use std::panic::PanicHookInfo;

/// Logs every panic from now on: what, where, in which thread (each line says its thread).
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let at = panic
            .location()
            .map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        let what = what(panic);
        log::error!(err = what.as_str(), at = at.as_str(); "a thread panicked: this is a fault of the service, please report it");
    }));
}

fn what(panic: &PanicHookInfo<'_>) -> String {
    if let Some(literal) = panic.payload().downcast_ref::<&'static str>() {
        return (*literal).to_owned();
    }
    let Some(message) = panic.payload().downcast_ref::<String>() else {
        return "a panic without text".to_owned();
    };
    if log::log_enabled!(log::Level::Debug) {
        message.clone()
    } else {
        without_data(message)
    }
}

/// The words of a composed message up to the first thing it quotes. "byte index 4 is out of bounds of `…`" and
/// "called `unwrap()` on an `Err` value: …" quote what was at hand, which may be a customer's.
fn without_data(message: &str) -> String {
    match message.find(['`', '"', '\'', '\n']) {
        Some(quote) => format!("{}… (the rest only at LOG_LEVEL=debug)", &message[..quote]),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_panic_quotes_is_left_out() {
        assert_eq!(
            without_data("end byte index 9 is out of bounds of `customer-4711`"),
            "end byte index 9 is out of bounds of … (the rest only at LOG_LEVEL=debug)"
        );
        assert_eq!(
            without_data("boom: Custom { id: \"customer-4711\" }"),
            "boom: Custom { id: … (the rest only at LOG_LEVEL=debug)"
        );
    }

    #[test]
    fn a_panic_that_quotes_nothing_is_kept_whole() {
        let message = "index out of bounds: the len is 3 but the index is 5";
        assert_eq!(without_data(message), message);
    }
}
