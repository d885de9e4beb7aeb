//! Two widths, light and dark, and what those need who do not see it so.

use super::Started;
use super::browser::Browser;

#[test]
fn the_page_is_readable_at_two_widths_in_light_and_in_dark() {
    let (Some(browser), Some(started)) = (Browser::start(), Started::new(true)) else {
        return;
    };
    started.fail();
    let (hold, pull) = started.pull_held();
    let asked = format!("{}?image=sized:1&done=begun", started.page());
    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        browser.scheme(scheme);
        for width in [360, 1280] {
            browser.resize(width);
            browser.open(&asked);
            browser.wait_for("#connection", "Live.");
            browser.wait_for("#live section[aria-labelledby=now]", "1 of 2 layers");
            browser.shoot(&format!("{scheme}-{width}"));
            let problems = browser.audit();
            assert_eq!(problems, Vec::<String>::new(), "{scheme} {width}");
            // Side by side where there is room, below each other where there is none.
            let is_beside =
                "const top = (it) => document.querySelector(it).getBoundingClientRect().top;
                return top('.forms') === top('main')";
            assert_eq!(browser.run(is_beside), width == 1280, "{scheme} {width}");
        }
        let ground = "return getComputedStyle(document.body).backgroundColor";
        grounds.push(browser.run(ground));
    }
    assert_ne!(grounds[0], grounds[1]);
    hold.release();
    assert_eq!(pull.join().unwrap().status, 200);
    browser.wait_for("#live section[aria-labelledby=recent]", "converted");
    assert_eq!(browser.audit(), Vec::<String>::new());
    browser.shoot("ended-dark-1280");
}

#[test]
fn what_would_keep_people_out_is_found() {
    let (Some(browser), Some(started)) = (Browser::start(), Started::new(true)) else {
        return;
    };
    for (change, problem) in [
        (
            "document.querySelector('h2').style.color = '#999'",
            "contrast 2.",
        ),
        (
            "document.querySelector('h2').style.opacity = '0.9'",
            "opacity 0.9",
        ),
        ("document.querySelector('label').remove()", "no label"),
        (
            "document.getElementById('tag').style.color = '#ccc'",
            "value of tag",
        ),
        (
            "document.querySelector('button').textContent = ''",
            "no name",
        ),
        (
            "document.querySelector('button').ariaLabel = 'Other'",
            "another name",
        ),
        ("document.querySelector('h1').id = 'live'", "id twice"),
        ("document.querySelector('h2').id = ''", "leads nowhere"),
        (
            "document.querySelector('main').style.width = '2000px'",
            "wider than the window",
        ),
        ("document.querySelector('caption').remove()", "no caption"),
        (
            "document.querySelector('th').removeAttribute('scope')",
            "no scope",
        ),
        (
            "document.querySelector('h2').outerHTML = '<h3>x</h3>'",
            "left out",
        ),
        (
            "document.querySelector('input').tabIndex = 3",
            "an order of its own",
        ),
    ] {
        browser.open(&started.page());
        assert_eq!(browser.audit(), Vec::<String>::new());
        browser.run(change);
        let problems = browser.audit();
        assert!(
            problems.iter().any(|found| found.contains(problem)),
            "{change}: {problems:?}"
        );
    }
}
