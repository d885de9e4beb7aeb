//! Patterns of a shell, by bytes: `*`, `?`, `[a-z]`, `[!a-z]`, `\x`.

/// Whether all of `text` matches `pattern`; `*` and `?` also match a slash.
#[must_use]
pub fn matches(pattern: &[u8], text: &[u8], ignore_case: bool) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on after the last star: all before it matched, and stays.
    let mut star = None;
    loop {
        let is_star = pattern.get(p) == Some(&b'*');
        if is_star {
            star = Some((p + 1, t));
            p += 1;
            continue;
        }
        let Some(byte) = text.get(t) else {
            return p == pattern.len();
        };
        if let Some(next) = one(&pattern[p..], *byte, ignore_case) {
            p += next;
            t += 1;
        } else if let Some((after, from)) = star {
            star = Some((after, from + 1));
            (p, t) = (after, from + 1);
        } else {
            return false;
        }
    }
}

/// How long the part of the pattern is that matches this byte.
fn one(pattern: &[u8], byte: u8, ignore_case: bool) -> Option<usize> {
    let fold = |byte: u8| {
        if ignore_case {
            byte.to_ascii_lowercase()
        } else {
            byte
        }
    };
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', set @ ..] => match class(set, byte, &fold) {
            Some((is_in, length)) => is_in.then_some(length + 1),
            // It has no end: then it is a bracket.
            None => (byte == b'[').then_some(1),
        },
        [b'\\', escaped, ..] => (fold(*escaped) == fold(byte)).then_some(2),
        [plain, ..] => (fold(*plain) == fold(byte)).then_some(1),
    }
}

/// Whether a byte is in the set that begins here, and how long the set is with its end.
fn class(set: &[u8], byte: u8, fold: &impl Fn(u8) -> u8) -> Option<(bool, usize)> {
    let is_negated = matches!(set.first(), Some(b'!' | b'^'));
    let mut at = usize::from(is_negated);
    let (begin, mut is_in) = (at, false);
    loop {
        let low = *set.get(at)?;
        if low == b']' && at > begin {
            return Some((is_in != is_negated, at + 1));
        }
        let (high, length) = match (set.get(at + 1), set.get(at + 2)) {
            (Some(b'-'), Some(high)) if *high != b']' => (*high, 3),
            _ => (low, 1),
        };
        at += length;
        is_in |= (fold(low)..=fold(high)).contains(&fold(byte));
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "a/b", true),
            ("a*c", "abbc", true),
            ("a*c", "abbcd", false),
            ("*.so*", "libssl.so.3", true),
            ("*a*b*", "xxaxxbxx", true),
            ("?", "a", true),
            ("?", "", false),
            ("[abc]x", "bx", true),
            ("[a-c]x", "dx", false),
            ("[!a-c]", "d", true),
            ("[]]", "]", true),
            ("[!]]", "]", false),
            ("[a-]", "-", true),
            ("[a-]", "b", false),
            ("[", "[", true),
            ("[ab", "[ab", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("ABC", "abc", false),
        ] {
            let found = matches(pattern.as_bytes(), text.as_bytes(), false);
            assert_eq!(found, expected, "{pattern} {text}");
        }
        assert!(matches(b"LIB[X-Z]*", b"libyaml", true));
        // Takes no longer than the product of the lengths.
        let text = vec![b'a'; 4000];
        assert!(!matches(
            &b"*a"
                .repeat(50)
                .into_iter()
                .chain(*b"b")
                .collect::<Vec<_>>(),
            &text,
            false
        ));
    }
}
