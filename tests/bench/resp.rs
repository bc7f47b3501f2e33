//! As much of Redis's protocol as is needed to be faster than any client: commands are appended to a buffer, sent
//! many at once, and of the answers only errors are read.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// A connection to a Redis on this machine.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

/// Appends a command.
pub fn push_command<T: AsRef<[u8]>>(out: &mut Vec<u8>, parts: &[T]) {
    let _ = write!(out, "*{}\r\n", parts.len());
    for part in parts {
        let part = part.as_ref();
        let _ = write!(out, "${}\r\n", part.len());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

impl Connection {
    pub fn open(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::with_capacity(64 * 1024, stream) })
    }

    /// Sends commands as they are.
    pub fn send(&mut self, commands: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(commands)
    }

    /// Reads so many answers; an error among them is an error.
    pub fn skip_answers(&mut self, count: usize) -> io::Result<()> {
        for _ in 0..count {
            self.answer(None)?;
        }
        Ok(())
    }

    /// One command and its answer: text, and nothing of lists.
    pub fn call(&mut self, parts: &[&str]) -> io::Result<Option<String>> {
        let mut command = Vec::new();
        push_command(&mut command, parts);
        self.send(&command)?;
        let mut texts = Vec::new();
        self.answer(Some(&mut texts))?;
        Ok(texts.pop().flatten())
    }

    /// One command and its answer, a list of texts.
    pub fn call_for_list<T: AsRef<[u8]>>(&mut self, parts: &[T]) -> io::Result<Vec<Option<String>>> {
        let mut command = Vec::new();
        push_command(&mut command, parts);
        self.send(&command)?;
        let mut texts = Vec::new();
        self.answer(Some(&mut texts))?;
        Ok(texts)
    }

    /// The next line without its end; 0 at the end of the connection.
    pub fn read_line(&mut self, line: &mut String) -> io::Result<usize> {
        line.clear();
        let read = self.stream.read_line(line)?;
        line.truncate(line.trim_end().len());
        Ok(read)
    }

    fn answer(&mut self, mut texts: Option<&mut Vec<Option<String>>>) -> io::Result<()> {
        let mut line = String::new();
        if self.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (sort, rest) = line.split_at(1);
        let length = || rest.parse::<i64>().unwrap_or(-1);
        match sort {
            "-" => return Err(io::Error::other(format!("Redis refused: {rest}"))),
            "*" => {
                for _ in 0..length() {
                    self.answer(texts.as_deref_mut())?;
                }
            }
            "$" => {
                let Ok(length) = usize::try_from(length()) else {
                    if let Some(texts) = texts {
                        texts.push(None);
                    }
                    return Ok(());
                };
                let mut text = vec![0; length + 2];
                self.stream.read_exact(&mut text)?;
                text.truncate(length);
                if let Some(texts) = texts {
                    texts.push(Some(String::from_utf8_lossy(&text).into_owned()));
                }
            }
            _ => {
                if let Some(texts) = texts {
                    texts.push(Some(rest.to_owned()));
                }
            }
        }
        Ok(())
    }
}
