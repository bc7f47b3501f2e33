//! Commands as bytes, written straight into the one request that they go out in: the library's own commands copy
//! every argument twice, and an entitlements message has a hundred, some of them of tens of kilobytes.

use redis::Cmd;

/// Calls that go out together, as bytes.
#[derive(Debug, Default)]
pub(super) struct Calls {
    request: Vec<u8>,
    count: usize,
}

impl Calls {
    /// Room for so many bytes at first.
    pub(super) fn with_room(bytes: usize) -> Self {
        Self {
            request: Vec::with_capacity(bytes),
            count: 0,
        }
    }

    /// Adds a command of the library's.
    pub(super) fn add(&mut self, command: &Cmd) {
        command.write_packed_command(&mut self.request);
        self.count += 1;
    }

    /// Begins a command. Exactly so many arguments have to follow, its name among them.
    pub(super) fn begin(&mut self, arguments: usize) -> &mut Self {
        self.count += 1;
        self.header(b'*', arguments);
        self
    }

    /// One argument.
    pub(super) fn arg(&mut self, argument: &[u8]) -> &mut Self {
        self.arg_of([argument])
    }

    /// One argument that is put together of parts.
    pub(super) fn arg_of<const PARTS: usize>(&mut self, parts: [&[u8]; PARTS]) -> &mut Self {
        self.header(b'$', parts.iter().map(|part| part.len()).sum());
        for part in parts {
            self.request.extend_from_slice(part);
        }
        self.request.extend_from_slice(b"\r\n");
        self
    }

    /// One argument that is a number.
    pub(super) fn number(&mut self, number: impl itoa::Integer) -> &mut Self {
        self.arg(itoa::Buffer::new().format(number).as_bytes())
    }

    fn header(&mut self, mark: u8, number: usize) {
        self.request.push(mark);
        self.request
            .extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
        self.request.extend_from_slice(b"\r\n");
    }

    /// What is to be sent.
    pub(super) fn request(&self) -> &[u8] {
        &self.request
    }

    /// Commands in it: as many answers come.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn clear(&mut self) {
        self.request.clear();
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use redis::cmd;

    use super::*;

    #[test]
    fn a_command_is_written_as_the_library_writes_it() {
        let numbers = [0, 7, 10, -1, 1_793_491_200_000, i64::MAX, i64::MIN];
        let mut of_library = cmd("EVALSHA");
        of_library
            .arg("sha")
            .arg("key#timestamp")
            .arg("")
            .arg("x".repeat(1_000));
        let mut calls = Calls::default();
        calls.begin(5 + numbers.len()).arg(b"EVALSHA").arg(b"sha");
        calls
            .arg_of([b"key", b"#timestamp"])
            .arg(b"")
            .arg("x".repeat(1_000).as_bytes());
        for number in numbers {
            of_library.arg(number);
            calls.number(number);
        }
        assert_eq!(calls.request(), of_library.get_packed_command());
        assert_eq!(calls.count(), 1);
    }

    #[test]
    fn commands_of_both_kinds_stand_one_behind_the_other() {
        let mut calls = Calls::default();
        calls.add(&cmd("PING"));
        calls.begin(2).arg(b"GET").arg(b"a");
        let expected = [
            cmd("PING").get_packed_command(),
            cmd("GET").arg("a").get_packed_command(),
        ]
        .concat();
        assert_eq!((calls.request(), calls.count()), (expected.as_slice(), 2));
        calls.clear();
        assert_eq!((calls.request(), calls.count()), (&b""[..], 0));
    }
}
