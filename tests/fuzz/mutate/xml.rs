//! Inputs as XML: STS's answers with elements dropped, doubled, renamed, nested; entities, document types, namespaces.

use std::ops::Range;

use fastrand::Rng;

use super::bytes;

const SAMPLES: [&str; 4] = [
    r#"<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult><UserId>A</UserId><Account>1</Account><Arn>arn:aws:iam::1:user/u</Arn></GetCallerIdentityResult><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></GetCallerIdentityResponse>"#,
    r#"<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Audience>sts.amazonaws.com</Audience><Credentials><SessionToken>t0ken</SessionToken><SecretAccessKey>s3cret</SecretAccessKey><Expiration>2030-01-01T00:00:00.000Z</Expiration><AccessKeyId>ASIA1</AccessKeyId></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"#,
    r#"<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>User: arn:aws:sts::1:assumed-role/a/b is not authorized to perform: sts:AssumeRole</Message></Error><RequestId>1</RequestId></ErrorResponse>"#,
    "<html><head><title>502 Bad Gateway</title></head><body>no</body></html>",
];

const PIECES: [&str; 22] = [
    "&lt;",
    "&amp;",
    "&#0;",
    "&#x10FFFF;",
    "&#xD800;",
    "&a;",
    "&",
    "<![CDATA[x]]>",
    "<![CDATA[",
    "]]>",
    "<!-- -->",
    "<!--",
    "<?x y?>",
    "<?xml version=\"1.0\"?>",
    "<a>",
    "</a>",
    "<a/>",
    "<a b='c' b='d'>",
    "<x:a xmlns:x=''>",
    "<!DOCTYPE a [<!ENTITY a \"&b;&b;&b;&b;\"><!ENTITY b \"&a;\">]>",
    "\u{feff}",
    "\u{85}",
];

/// Names that are looked for.
const NAMES: [&str; 12] = [
    "GetCallerIdentityResult",
    "Arn",
    "Credentials",
    "AccessKeyId",
    "SecretAccessKey",
    "SessionToken",
    "Expiration",
    "ErrorResponse",
    "Error",
    "Code",
    "Message",
    "a",
];

/// An answer, or something like one.
pub fn input(rng: &mut Rng) -> Vec<u8> {
    match rng.u32(..100) {
        0..4 => return bytes::arbitrary(rng),
        4..7 => return costly(rng),
        _ => {}
    }
    let mut text = SAMPLES[rng.usize(..SAMPLES.len())].to_owned();
    for _ in 0..rng.u32(..4) {
        change(rng, &mut text);
    }
    let mut text = text.into_bytes();
    if rng.u32(..3) == 0 {
        bytes::mutate(rng, &mut text);
    }
    text
}

fn change(rng: &mut Rng, text: &mut String) {
    // Every cut is at the beginning of a tag: the samples are ASCII, but what was put in is not.
    let tags: Vec<usize> = text.match_indices('<').map(|(at, _)| at).collect();
    if tags.is_empty() {
        return;
    }
    let at = tags[rng.usize(..tags.len())];
    let other = tags[rng.usize(..tags.len())];
    let (from, to) = (at.min(other), at.max(other));
    match rng.u32(..5) {
        0 => text.replace_range(from..to, ""),
        1 => {
            let copy = text[from..to].to_owned();
            text.insert_str(to, &copy);
        }
        2 => text.insert_str(at, PIECES[rng.usize(..PIECES.len())]),
        3 => {
            // Both tags of a name, so that the result is XML again.
            let (old, new) = (NAMES[rng.usize(..NAMES.len())], NAMES[rng.usize(..NAMES.len())]);
            *text = text.replace(&format!("<{old}>"), &format!("<{new}>"));
            *text = text.replace(&format!("</{old}>"), &format!("</{new}>"));
        }
        _ => {
            let end = text[at..].find('>').map_or(text.len(), |end| at + end + 1);
            let long = ["x".repeat(bytes::length(rng)), PIECES[rng.usize(..PIECES.len())].to_owned()];
            text.insert_str(end, &long[rng.usize(..2)]);
        }
    }
}

/// Depth, width, many attributes, many namespaces, entities that refer to one another.
fn costly(rng: &mut Rng) -> Vec<u8> {
    let count = rng.usize(..30_000);
    match rng.u32(..8) {
        0 => "<a>".repeat(count),
        1 => "<a>".repeat(count) + &"</a>".repeat(count),
        2 => format!("<a>{}</a>", "<b/>".repeat(count)),
        3 => format!("<a{}/>", numbered(0..count, |number| format!(" a{number}=''"))),
        4 => numbered(0..count.min(3_000), |number| format!("<a xmlns:n{number}='{number}'>")),
        5 => format!("<Error><Code>{}</Code></Error>", "&amp;".repeat(count)),
        6 => {
            let entities =
                numbered(1..40, |number| format!("<!ENTITY e{number} \"&e{0};&e{0};\">", number - 1));
            format!("<!DOCTYPE a [<!ENTITY e0 \"x\">{entities}]><a>&e39;</a>")
        }
        _ => format!(
            "<ErrorResponse><Error><Code>{0}</Code><Message>{0}</Message></Error></ErrorResponse>",
            "a ".repeat(count)
        ),
    }
    .into_bytes()
}

fn numbered(numbers: Range<usize>, text: impl Fn(usize) -> String) -> String {
    numbers.map(text).collect::<Vec<_>>().concat()
}
