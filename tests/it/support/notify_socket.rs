//! The socket on which systemd hears of a service with `Type=notify`.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// What `NOTIFY_SOCKET` names. Notifications that were not looked at wait in the kernel, which holds a few: whoever
/// waits for something else for long should look at them, too.
pub struct NotifySocket {
    socket: UnixDatagram,
    path: PathBuf,
    heard: Mutex<Vec<String>>,
}

impl NotifySocket {
    /// A socket in this directory.
    pub fn bind(directory: &Path) -> Self {
        let path = directory.join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_nonblocking(true).expect("a socket that does not block");
        Self { socket, path, heard: Mutex::default() }
    }

    /// What `NOTIFY_SOCKET` is set to.
    pub fn name(&self) -> &str {
        self.path.to_str().expect("a path of text")
    }

    /// Every notification so far, each with its lines.
    pub fn heard(&self) -> Vec<String> {
        let mut heard = self.heard.lock().unwrap();
        let mut buffer = [0; 4096];
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(length) => heard.push(String::from_utf8_lossy(&buffer[..length]).into_owned()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return heard.clone(),
                Err(error) => panic!("the notify socket: {error}"),
            }
        }
    }

    /// How many notifications have this line.
    pub fn count(&self, line: &str) -> usize {
        let has_line = |message: &&String| message.lines().any(|found| found == line);
        self.heard().iter().filter(has_line).count()
    }
}
