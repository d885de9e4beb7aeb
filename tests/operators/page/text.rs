//! Errors, policy's answer, and text from outside.

use super::browser::{Browser, ENTER};
use super::{MARKUP, Started};

#[test]
fn the_error_of_a_failed_image_is_seen_as_it_is() {
    let (Some(browser), Some(started)) = (Browser::start(), Started::new(true)) else {
        return;
    };
    browser.open(&started.page());
    browser.wait_for("#connection", "Live.");
    started.fail();
    for section in ["recent", "failures"] {
        let section = format!("#live section[aria-labelledby={section}] tbody tr");
        browser.wait_for(&section, "/broken:1");
        let seen = browser.text(&section);
        // The whole of it, as text, in the error's own quotation marks.
        assert!(seen.contains(&format!("{MARKUP:?}")), "{seen}");
    }
    assert!(browser.text("#status").contains("1 failure remembered"));
    let seen = browser.text("#live section[aria-labelledby=failures] tbody tr");
    assert!(
        seen.contains(" UTC") && seen.contains("0 requests got it"),
        "{seen}"
    );
    started.fail();
    browser.wait_for(
        "#live section[aria-labelledby=failures]",
        "1 request got it",
    );
    assert!(browser.run("return window.attacked ?? null").is_null());
    assert_eq!(browser.run("return document.images.length"), 0);
}

#[test]
fn policy_answers_for_an_image_that_is_typed_in() {
    let (Some(browser), Some(started)) = (Browser::start(), Started::new(true)) else {
        return;
    };
    browser.open(&started.page());
    let ask = |image: &str| {
        browser.run("document.getElementById('image').value = ''");
        browser.tab_to("it.id === 'image'");
        browser.press(image);
        browser.press(ENTER);
        browser.wait_for("#policy .name", image);
        browser.text("section[aria-labelledby=policy]")
    };
    let answer = ask("app:1");
    for text in [
        "by no rule",
        "1_obd",
        "native",
        "Overlaybd-Format: auto",
        "original",
    ] {
        assert!(answer.contains(text), "{text} in {answer}");
    }
    let answer = ask("secret/app:1");
    let rule = "by [[policy]] 1: repository = \"secret/*\", when = \"never\"";
    assert!(answer.contains(rule), "{answer}");
    assert!(answer.contains("the rule says never"), "{answer}");
    // One table for each size.
    let answer = ask("sized:1");
    let tables = "return document.querySelectorAll('section[aria-labelledby=policy] table').length";
    assert_eq!(browser.run(tables), 2, "{answer}");
    assert!(
        answer.contains("If its layers have 1.00 MiB or less"),
        "{answer}"
    );
    assert!(answer.contains("Otherwise: "), "{answer}");
    browser.shoot("policy");

    let answer = ask(MARKUP);
    assert!(answer.contains("is no registry host"), "{answer}");
    assert_eq!(
        browser.run("return document.getElementById('image').value"),
        MARKUP
    );
    assert!(browser.run("return window.attacked ?? null").is_null());
    assert_eq!(browser.run("return document.images.length"), 0);
    let shown = browser.text("section[aria-labelledby=policy] [role=alert]");
    assert!(!shown.is_empty());
}
