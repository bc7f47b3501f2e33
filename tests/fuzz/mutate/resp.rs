//! Inputs as Redis's protocol: answers of every type, claims of every length.

use fastrand::Rng;

use super::bytes;

/// What a script, SCAN, INFO, ROLE or a Sentinel answers, and the errors that matter.
const SAMPLES: [&str; 24] = [
    "*3\r\n:0\r\n:2\r\n:1\r\n",
    "*3\r\n:1\r\n:0\r\n:0\r\n",
    "*3\r\n:4\r\n:0\r\n:0\r\n",
    "*3\r\n:0\r\n:9223372036854775807\r\n:-1\r\n",
    "*2\r\n$1\r\n0\r\n*2\r\n$5\r\np:c_a\r\n$15\r\np:c_a#timestamp\r\n",
    "*2\r\n$20\r\n18446744073709551615\r\n*0\r\n",
    "$58\r\n# Stats\r\nkeyspace_hits:10\r\nkeyspace_misses:5\r\nused_memory:1\r\n\r\n",
    "+OK\r\n",
    "+PONG\r\n",
    "$-1\r\n",
    "*-1\r\n",
    ":-9223372036854775808\r\n",
    "-NOSCRIPT No matching script. Please use EVAL.\r\n",
    "-READONLY You can't write against a read only replica.\r\n",
    "-ERR Error running script (call to f_1): @user_script:40: -OOM command not allowed\r\n",
    "-MOVED 3999 127.0.0.1:6381\r\n",
    "-\r\n",
    "- \r\n",
    "*2\r\n$9\r\n127.0.0.1\r\n$4\r\n6379\r\n",
    "*3\r\n$6\r\nmaster\r\n:3129659\r\n*1\r\n*3\r\n$9\r\n127.0.0.1\r\n$4\r\n9001\r\n$7\r\n3129242\r\n",
    "*1\r\n*10\r\n$4\r\nname\r\n$8\r\nmymaster\r\n$2\r\nip\r\n$9\r\n127.0.0.1\r\n$4\r\nport\r\n$4\r\n6379\r\n$5\r\nflags\r\n$6\r\nmaster\r\n$9\r\nnum-slaves\r\n$1\r\n1\r\n",
    "%2\r\n+role\r\n+master\r\n+ok\r\n#t\r\n",
    "|1\r\n+ttl\r\n:1\r\n*3\r\n:0\r\n:1\r\n:0\r\n",
    ">2\r\n+invalidate\r\n*1\r\n+a\r\n",
];

/// An answer, or something like one.
pub fn input(rng: &mut Rng) -> Vec<u8> {
    let mut answer = match rng.u32(..100) {
        0..5 => return bytes::arbitrary(rng),
        5..45 => SAMPLES[rng.usize(..SAMPLES.len())].as_bytes().to_vec(),
        45..48 => return costly(rng),
        _ => {
            let mut answer = Vec::new();
            value(rng, 0, &mut answer);
            answer
        }
    };
    if rng.u32(..10) < 6 {
        bytes::mutate(rng, &mut answer);
    }
    answer
}

fn value(rng: &mut Rng, depth: u32, out: &mut Vec<u8>) {
    let kind = if depth > 5 { rng.u32(..12) } else { rng.u32(..18) };
    let text = |rng: &mut Rng| {
        let length = rng.usize(..24);
        (0..length).map(|_| rng.u8(0x20..0x7F)).collect::<Vec<u8>>()
    };
    match kind {
        0 => line(out, b'+', &text(rng)),
        1 => line(out, b'-', &text(rng)),
        2..5 => line(out, b':', rng.i64(-3..9).to_string().as_bytes()),
        5 => line(out, b':', rng.i64(..).to_string().as_bytes()),
        6 => line(out, b',', [b"1.5".as_slice(), b"inf", b"nan", b"-1e400"][rng.usize(..4)]),
        7 => line(out, b'#', [b"t".as_slice(), b"f", b"x"][rng.usize(..3)]),
        8 => line(out, b'_', b""),
        9 => line(out, b'(', &text(rng)),
        10 | 11 => {
            let content = text(rng);
            let prefix = b"$$$!="[rng.usize(..5)];
            line(out, prefix, content.len().to_string().as_bytes());
            out.extend(&content);
            out.extend(b"\r\n");
        }
        _ => {
            let count = rng.u32(..5);
            let (prefix, values) = [
                (b'*', count),
                (b'*', count),
                (b'*', count),
                (b'~', count),
                (b'%', 2 * count),
                (b'|', 2 * count + 1),
                (b'>', count),
            ][rng.usize(..7)];
            line(out, prefix, count.to_string().as_bytes());
            for _ in 0..values {
                value(rng, depth + 1, out);
            }
        }
    }
}

/// Much claimed and little sent; nested without an end; a long answer.
fn costly(rng: &mut Rng) -> Vec<u8> {
    let prefix = b"*~%|>$!="[rng.usize(..8)];
    let claim =
        [1_i128 << rng.u32(..66), (1 << rng.u32(..66)) - 1, -(1 << rng.u32(..64)), rng.u32(..6).into()]
            [rng.usize(..4)];
    let head = [&[prefix], claim.to_string().as_bytes(), b"\r\n"].concat();
    match rng.u32(..5) {
        0 => head,
        // Room is made for what is claimed once the first of it has come.
        3 => [b"*4096\r\n:1\r\n".repeat(rng.usize(..120)), head].concat(),
        1 => head.repeat(rng.usize(..120)),
        2 => head.repeat(rng.usize(..5_000)),
        _ => {
            let count = rng.usize(..5_000);
            [format!("*{count}\r\n").into_bytes(), b":1\r\n".repeat(count)].concat()
        }
    }
}

fn line(out: &mut Vec<u8>, prefix: u8, text: &[u8]) {
    out.push(prefix);
    out.extend(text);
    out.extend(b"\r\n");
}
