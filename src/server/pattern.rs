//! Patterns of names.

/// A pattern of names: `*` stands for any text, `?` for one character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(pub String);

impl Pattern {
    /// Whether `text` is of this pattern.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let pattern: Vec<char> = self.0.chars().collect();
        let text: Vec<char> = text.chars().collect();
        let (mut at, mut place) = (0, 0);
        // Where the last star was, and how far its text went: one star is enough to return to.
        let mut star: Option<(usize, usize)> = None;
        while place < text.len() {
            match pattern.get(at) {
                Some('*') => {
                    star = Some((at, place));
                    at += 1;
                }
                Some(c) if *c == '?' || text.get(place) == Some(c) => {
                    at += 1;
                    place += 1;
                }
                _ => {
                    let Some((star_at, taken)) = star else {
                        return false;
                    };
                    star = Some((star_at, taken + 1));
                    at = star_at + 1;
                    place = taken + 1;
                }
            }
        }
        pattern.iter().skip(at).all(|c| *c == '*')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, text, is_match) in [
            ("*", "library/redis:7", true),
            ("library/redis:*", "library/redis:7", true),
            ("library/redis:*", "library/redis2:7", false),
            ("*/redis:?", "library/redis:7", true),
            ("*/redis:?", "library/redis:77", false),
            ("*a*b*c", "xaxxbxcxbxc", true),
            ("*a*b*c", "xaxxbxcxb", false),
            ("", "", true),
            ("", "a", false),
            ("a", "", false),
            ("**", "", true),
        ] {
            let found = Pattern(pattern.to_owned()).matches(text);
            assert_eq!(found, is_match, "{pattern} {text}");
        }
    }
}
