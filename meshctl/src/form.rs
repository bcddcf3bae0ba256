//! `application/x-www-form-urlencoded`: bodies and queries of the control API.

/// The pairs in `text`, in order; `None` if an escape is cut short or is not hexadecimal, or if
/// what comes out is not UTF-8. A name without `=` has an empty value.
pub fn decode(text: &str) -> Option<Vec<(String, String)>> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((unescape(name)?, unescape(value)?))
        })
        .collect()
}

/// The text of `pairs`.
pub fn encode(pairs: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in pairs {
        if !text.is_empty() {
            text.push('&');
        }
        escape(&mut text, name);
        text.push('=');
        escape(&mut text, value);
    }
    text
}

/// `plain` as one element of a path: whatever it is, it is no more than one.
pub fn segment(plain: &str) -> String {
    let mut text = String::new();
    escape(&mut text, plain);
    // In a path a plus is a plus, and dots alone lead elsewhere.
    match text.as_str() {
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        _ => text.replace('+', "%20"),
    }
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut plain = Vec::with_capacity(text.len());
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'+' => b' ',
            b'%' => {
                let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
                u8::try_from(high << 4 | low).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(plain).ok()
}

fn escape(text: &mut String, plain: &str) {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    for byte in plain.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => {
                text.push(char::from(byte));
            }
            b' ' => text.push('+'),
            _ => {
                text.push('%');
                text.extend([
                    DIGITS[usize::from(byte >> 4)],
                    DIGITS[usize::from(byte & 15)],
                ]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn decodes_what_curl_sends() {
        let pairs = decode("peer=10.0.0.1%3A6783&&peer=b+c&replace").unwrap();
        let expected = [
            pair("peer", "10.0.0.1:6783"),
            pair("peer", "b c"),
            pair("replace", ""),
        ];
        assert_eq!(pairs, expected);
        assert_eq!(decode(""), Some(Vec::new()));
        for bad in ["a=%", "a=%4", "a=%zz", "a=%ff", "%+1=2"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }

    #[test]
    fn elements_of_a_path_stay_whole() {
        for (plain, text) in [
            ("weave:expose", "weave%3Aexpose"),
            ("a b+c/d?e#f%", "a%20b%2Bc%2Fd%3Fe%23f%25"),
            ("..", "%2E%2E"),
            (".", "%2E"),
            ("_", "_"),
        ] {
            assert_eq!(segment(plain), text);
        }
    }

    #[test]
    fn everything_survives_the_way_there() {
        let all: String = (0..0x250).filter_map(char::from_u32).collect();
        let text = encode(&[("format", &all), ("x", "")]);
        assert!(text.is_ascii());
        assert_eq!(
            decode(&text).unwrap(),
            [pair("format", &all), pair("x", "")]
        );
    }
}
