//! Markup that is written piece by piece, and in which no text from outside can be markup.

use std::fmt::{self, Display, Write as _};
use std::time::SystemTime;

/// The most rows of a table.
pub(super) const MOST_ROWS: usize = 50;

/// A piece of a page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Html(String);

/// Writes text as markup that shows it.
struct Escaped<'a>(&'a mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                // Lines end events, too, by which pieces are sent.
                '\n' => self.0.push_str("&#10;"),
                '\t' => self.0.push(' '),
                control if control.is_control() => self.0.push('\u{FFFD}'),
                other => self.0.push(other),
            }
        }
        Ok(())
    }
}

impl Html {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A piece of one text.
    pub fn of(text: impl Display) -> Self {
        let mut html = Self::new();
        html.text(text);
        html
    }

    /// Adds markup.
    pub fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Adds text, which shows as it is, also as an attribute's value in double quotes.
    pub fn text(&mut self, text: impl Display) -> &mut Self {
        // Writing to a string does not fail.
        let _ = write!(Escaped(&mut self.0), "{text}");
        self
    }

    /// Adds a name, which may go on in another line behind each slash or colon.
    pub fn name(&mut self, name: &str) -> &mut Self {
        for part in name.split_inclusive(['/', ':']) {
            self.text(part);
            if part.ends_with(['/', ':']) {
                self.raw("<wbr>");
            }
        }
        self
    }

    /// Adds another piece.
    pub fn piece(&mut self, piece: &Self) -> &mut Self {
        self.0.push_str(&piece.0);
        self
    }

    /// Adds a paragraph.
    pub fn paragraph(&mut self, text: impl Display) -> &mut Self {
        self.raw("<p>").text(text).raw("</p>")
    }

    /// Adds a table of `rows`, of which each has a cell for each of `columns`; the first is what
    /// the row is about. The caption is its name.
    pub fn table(
        &mut self,
        caption: impl Display,
        columns: &[&'static str],
        rows: &[Vec<Self>],
    ) -> &mut Self {
        // The roles stay where narrow windows have rows shown as blocks.
        self.raw("<table role=\"table\"><caption>").text(caption);
        self.raw("</caption><thead role=\"rowgroup\"><tr role=\"row\">");
        for column in columns {
            self.raw("<th role=\"columnheader\" scope=\"col\">");
            self.raw(column).raw("</th>");
        }
        self.raw("</tr></thead><tbody role=\"rowgroup\">");
        for row in rows {
            self.raw("<tr role=\"row\">");
            for (number, (column, cell)) in columns.iter().zip(row).enumerate() {
                let (begin, end) = match number {
                    0 => ("<th role=\"rowheader\" scope=\"row\">", "</th>"),
                    _ => ("<td role=\"cell\" data-label=\"", "</td>"),
                };
                self.raw(begin);
                if number > 0 {
                    self.raw(column).raw("\">");
                }
                self.piece(cell).raw(end);
            }
            self.raw("</tr>");
        }
        self.raw("</tbody></table>")
    }

    /// Says how many rows are not shown, of so many in all.
    pub fn more(&mut self, all: usize) {
        let left = all.saturating_sub(MOST_ROWS);
        if left > 0 {
            self.paragraph(format_args!("{left} more are not shown."));
        }
    }

    /// All of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// All of it.
    pub fn into_string(self) -> String {
        self.0
    }
}

/// A button of the form for changes.
pub(super) struct Button<'a> {
    /// What is written on it.
    pub label: &'static str,
    /// What it is done to, for those who do not see where the button is.
    pub to: &'a str,
    /// What is done, and to what: the value of `action`.
    pub action: String,
    /// Whether it can be pressed.
    pub is_on: bool,
}

impl Button<'_> {
    pub fn html(&self) -> Html {
        let mut html = Html::new();
        html.raw("<button form=\"actions\" formnovalidate name=\"action\" value=\"");
        html.text(&self.action).raw("\" aria-label=\"");
        html.raw(self.label).raw(" ").text(self.to).raw("\"");
        if !self.is_on {
            html.raw(" disabled");
        }
        html.raw(">").raw(self.label).raw("</button>");
        html
    }
}

/// A progress bar, without a value where the end is not known.
pub(super) fn progress(label: &str, value: u64, end: u64) -> Html {
    let mut html = Html::new();
    html.raw("<progress aria-label=\"").text(label).raw("\"");
    if end > 0 {
        html.raw(" max=\"").text(end).raw("\" value=\"");
        html.text(value.min(end)).raw("\"");
    }
    html.raw("></progress>");
    html
}

/// A time, to the second.
pub(super) fn time(at: SystemTime) -> Html {
    let text = humantime::format_rfc3339_seconds(at).to_string();
    let shown = text.replace('T', " ").replace('Z', " UTC");
    let mut html = Html::new();
    html.raw("<time datetime=\"").text(&text).raw("\">");
    html.text(shown).raw("</time>");
    html
}

/// A size.
pub(super) fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// A number of things: `1 layer`, `2 layers`.
pub(super) fn count(number: u64, thing: &str) -> String {
    let end = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_no_markup_and_ends_no_line() {
        let html = Html::of("a <script>\"x\"&'y'\r\n\u{0}b");
        assert_eq!(
            html.as_str(),
            "a &lt;script&gt;&quot;x&quot;&amp;&#39;y&#39;\u{FFFD}&#10;\u{FFFD}b"
        );
        let button = Button {
            label: "Cancel",
            to: "a\" onclick=\"b",
            action: "cancel \">".to_owned(),
            is_on: false,
        };
        let html = button.html().into_string();
        assert!(!html.contains("\" onclick"), "{html}");
        assert!(html.contains("value=\"cancel &quot;&gt;\""), "{html}");
        assert!(html.contains(" disabled>"), "{html}");
    }

    #[test]
    fn a_bar_does_not_go_beyond_its_end() {
        let html = progress("x", 9, 4).into_string();
        assert!(html.contains("max=\"4\" value=\"4\""), "{html}");
        assert!(!progress("x", 0, 0).as_str().contains("value"));
    }

    #[test]
    fn a_time_is_shown_in_utc() {
        let html = time(SystemTime::UNIX_EPOCH).into_string();
        assert_eq!(
            html,
            "<time datetime=\"1970-01-01T00:00:00Z\">1970-01-01 00:00:00 UTC</time>"
        );
    }
}
