//! The forms: one for changes, one that asks what policy says.

use super::html::Html;

/// What is written in the fields.
#[derive(Debug, Default)]
pub(super) struct Filled {
    pub registry: String,
    pub repository: String,
    pub tag: String,
    /// The image that policy is asked about.
    pub image: String,
}

struct Field<'a> {
    name: &'static str,
    label: &'static str,
    hint: &'static str,
    value: &'a str,
    is_required: bool,
}

impl Field<'_> {
    fn html(&self) -> Html {
        let mut html = Html::new();
        html.raw("<p class=\"field\"><label for=\"").raw(self.name);
        html.raw("\">").raw(self.label).raw("</label>");
        html.raw("<input autocapitalize=\"off\" autocomplete=\"off\" spellcheck=\"false\" id=\"");
        html.raw(self.name).raw("\" name=\"").raw(self.name);
        html.raw("\" value=\"").text(self.value).raw("\"");
        if self.is_required {
            html.raw(" required");
        }
        html.raw(" aria-describedby=\"hint-")
            .raw(self.name)
            .raw("\">");
        html.raw("<small id=\"hint-").raw(self.name).raw("\">");
        html.raw(self.hint).raw("</small></p>");
        html
    }
}

/// The form for changes, whose buttons are in the live part, too. Its first button is that of
/// this form: it is the one that the Enter key presses.
pub(super) fn changes(filled: &Filled, is_on: bool) -> Html {
    let mut html = Html::new();
    html.raw(
        "<section aria-labelledby=\"changes\"><h2 id=\"changes\">Convert an image</h2>\
         <form id=\"actions\" method=\"post\" action=\"/actions\">",
    );
    if !is_on {
        html.raw(
            "<p class=\"message\">Changes are off: the buttons work once the proxy is started with \
             <code>--admin-token-file</code> and a file whose first line is a secret.</p>",
        );
    }
    let fields = [
        Field {
            name: "repository",
            label: "Repository",
            hint: "such as library/redis",
            value: &filled.repository,
            is_required: true,
        },
        Field {
            name: "tag",
            label: "Tag",
            hint: "without a suffix",
            value: &filled.tag,
            is_required: true,
        },
        Field {
            name: "registry",
            label: "Registry",
            hint: "empty: the first upstream",
            value: &filled.registry,
            is_required: false,
        },
    ];
    for field in fields {
        html.piece(&field.html());
    }
    html.raw(
        "<p class=\"field\"><label for=\"token\">Token</label><input type=\"password\" id=\"token\" \
         name=\"token\" autocomplete=\"current-password\" required aria-describedby=\"hint-token\">\
         <small id=\"hint-token\">for this and every other button: the first line of the file of \
         --admin-token-file</small></p>",
    );
    let mut button = Html::new();
    button.raw("<button class=\"main\" name=\"action\" value=\"convert\"");
    if !is_on {
        button.raw(" disabled");
    }
    button.raw(">Convert</button>");
    html.raw("<p>").piece(&button).raw("</p></form></section>");
    html
}

/// The form that asks what policy says.
pub(super) fn policy(filled: &Filled) -> Html {
    let field = Field {
        name: "image",
        label: "Image",
        hint: "such as docker.io/library/redis:7",
        value: &filled.image,
        is_required: true,
    };
    let mut html = Html::new();
    html.raw(
        "<section aria-labelledby=\"ask\"><h2 id=\"ask\">Ask policy</h2>\
         <form method=\"get\" action=\"/\">",
    );
    html.piece(&field.html());
    html.raw("<p><button class=\"main\">Show what pulls get</button></p></form></section>");
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_typed_in_stays_and_is_text() {
        let filled = Filled {
            repository: "\"><script>".to_owned(),
            image: "a&b".to_owned(),
            ..Filled::default()
        };
        let html = changes(&filled, true).into_string();
        assert!(
            html.contains("value=\"&quot;&gt;&lt;script&gt;\""),
            "{html}"
        );
        assert!(!html.contains("disabled"), "{html}");
        assert!(changes(&filled, false).as_str().contains("disabled"));
        assert!(policy(&filled).as_str().contains("value=\"a&amp;b\""));
    }

    #[test]
    fn the_enter_key_presses_the_button_of_the_form_itself() {
        let html = changes(&Filled::default(), true).into_string();
        let first = html.find("<button").unwrap();
        assert!(
            html[first..].starts_with("<button class=\"main\" name=\"action\" value=\"convert\"")
        );
    }
}
