//! What changes while one looks, and the buttons.

use super::browser::{Browser, ENTER};
use super::{Started, TOKEN};

/// The elements of the row of `app:1` under way.
const ROW: &str = "#live section[aria-labelledby=now] tbody tr";

#[test]
fn a_conversion_is_seen_to_go_on_and_is_cancelled_by_keyboard() {
    let (Some(browser), Some(started)) = (Browser::start(), Started::new(true)) else {
        return;
    };
    browser.open(&started.page());
    browser.wait_for("#connection", "Live.");
    browser.wait_for("#live", "No conversion is under way");
    browser.run("window.opened = 'once'");

    // Somebody types while it goes on.
    browser.tab_to("it.id === 'repository'");
    browser.press("te");
    let (_hold, pull) = started.pull_held();
    browser.wait_for(ROW, "1 of 2 layers");
    browser.press("am");
    assert_eq!(browser.run("return document.activeElement.value"), "team");
    let seen = browser.text(ROW);
    for text in [
        "/app:1",
        "native, linux/amd64",
        "runs",
        "127.0.0.1",
        " read",
    ] {
        assert!(seen.contains(text), "{text} in {seen}");
    }
    let bars = format!(
        "return [...document.querySelectorAll({:?})].map((it) => [it.value, it.max])",
        format!("{ROW} progress")
    );
    let bars = browser.run(&bars);
    assert_eq!(bars[0][0], 1, "{bars}");
    assert_eq!(bars[0][1], 2, "{bars}");
    let (read, all) = (bars[1][0].as_u64().unwrap(), bars[1][1].as_u64().unwrap());
    assert!(0 < read && read < all, "{bars}");
    // The layer that is read.
    let (read, all) = (bars[2][0].as_u64().unwrap(), bars[2][1].as_u64().unwrap());
    assert!(0 < read && read < all, "{bars}");
    assert!(seen.contains("layer 2: "), "{seen}");
    assert!(
        browser
            .text("#status")
            .contains("1 conversion under way, 0 waiting")
    );

    browser.tab_to("it.id === 'token'");
    browser.press(TOKEN);
    browser.tab_to("it.innerText === 'Cancel'");
    browser.shoot("running-focus");
    browser.press(ENTER);
    browser.wait_for("#message", "The conversion is cancelled.");
    assert_eq!(pull.join().unwrap().status, 503);
    browser.wait_for("#live section[aria-labelledby=recent]", "cancelled");
    // The button is gone: the focus stays where it was pressed.
    browser.wait_until("return document.activeElement.id === 'now'");

    // The failure that is remembered is what an operator did; the button begins it anew.
    browser.tab_to("it.innerText === 'Retry'");
    browser.press(ENTER);
    browser.wait_for("#message", "The conversion is begun.");
    browser.wait_for(
        "#live section[aria-labelledby=recent] tbody tr",
        "converted",
    );
    browser.wait_for("#live", "No failure is remembered.");
    let seen = browser.text("#live section[aria-labelledby=recent] tbody tr");
    assert!(seen.contains("1 made, 1 found"), "{seen}");
    assert_eq!(browser.run("return window.opened"), "once");

    drop(started);
    browser.wait_for("#connection", "Not live");
}

#[test]
fn buttons_work_and_everything_is_there_without_scripts() {
    let (Some(browser), Some(started)) = (Browser::start(), Started::new(true)) else {
        return;
    };
    started.fail();
    let sections = "return [...document.querySelectorAll('h2, caption')].map((it) => it.innerText)";
    browser.open(&started.page());
    browser.wait_for("#connection", "Live.");
    let with = browser.run(sections);
    assert!(with.as_array().unwrap().len() > 8, "{with}");

    browser.disable_scripts(true);
    browser.open(&started.page());
    assert_eq!(browser.run(sections), with);
    assert!(browser.text("#connection").contains("UTC: reload"));
    let type_in = |token: &str| {
        browser.tab_to("it.id === 'repository'");
        browser.press("app");
        browser.tab_to("it.id === 'tag'");
        browser.press("1");
        browser.tab_to("it.id === 'token'");
        browser.press(token);
        browser.press(ENTER);
    };
    type_in("wrong");
    browser.wait_for("[role=alert]", "the token is wrong");
    // What was typed in is still there, but not the token.
    let values =
        "return ['repository', 'tag', 'token'].map((id) => document.getElementById(id).value)";
    assert_eq!(browser.run(values), serde_json::json!(["app", "1", ""]));
    assert!(started.gate.seen().iter().all(|one| !one.contains("/app/")));

    browser.tab_to("it.id === 'token'");
    browser.press(TOKEN);
    browser.click("button[value=convert]");
    browser.wait_for("#message", "The conversion is begun.");
    let address = browser.run("return location.href");
    assert_eq!(address, format!("{}?done=begun", started.page()));
    reload_until_converted(&browser, &started);
    browser.tab_to("it.id === 'token'");
    browser.press(TOKEN);
    browser.click("button[value^='forget ']");
    browser.wait_for("#message", "The failure is forgotten");
    assert!(browser.text("#live").contains("No failure is remembered."));
}

/// Reloads the page until it has the image, as people do.
fn reload_until_converted(browser: &Browser, started: &Started) {
    super::support::until::until("app:1 is converted", || {
        browser.open(&started.page());
        let rows = browser.text("#live section[aria-labelledby=recent]");
        (rows.contains("/app:1") && rows.contains("converted")).then_some(())
    });
}

#[test]
fn without_a_token_the_page_says_how_to_have_buttons() {
    let (Some(browser), Some(started)) = (Browser::start(), Started::new(false)) else {
        return;
    };
    started.fail();
    browser.open(&started.page());
    assert!(browser.text("#actions").contains("--admin-token-file"));
    let buttons =
        "return [...document.querySelectorAll('button[name=action]')].map((it) => it.disabled)";
    let buttons = browser.run(buttons);
    let buttons = buttons.as_array().unwrap();
    assert!(buttons.len() >= 4, "{buttons:?}");
    assert!(buttons.iter().all(|one| *one == true), "{buttons:?}");
    assert_eq!(browser.audit(), Vec::<String>::new());
    browser.shoot("no-token");
}

#[test]
fn recent_images_are_those_that_were_converted_before_a_restart_too() {
    let (Some(browser), Some(mut started)) = (Browser::start(), Started::new(true)) else {
        return;
    };
    let recent = "#live section[aria-labelledby=recent]";
    browser.open(&started.page());
    browser.wait_for(recent, "No image was converted yet.");
    assert_eq!(started.pull("app").join().unwrap().status, 200);
    started.fail();
    browser.wait_for(recent, "failed");
    let rows = format!("return document.querySelectorAll('{recent} tbody tr').length");
    // The image is in the list of conversions and in the index, and here once.
    assert_eq!(browser.run(&rows), 2);

    started.restart();
    browser.open(&started.page());
    browser.wait_for("#connection", "Live.");
    browser.wait_for(recent, "/app:1");
    assert_eq!(browser.run(&rows), 1);
    let seen = browser.text(&format!("{recent} tbody tr"));
    for text in [
        "native, linux/amd64",
        "converted",
        "sha256:",
        "2 made, 0 found",
        " from ",
    ] {
        assert!(seen.contains(text), "{text} in {seen}");
    }
    started.fail();
    browser.wait_for(recent, "failed");
    assert_eq!(browser.run(&rows), 2);
    for scheme in ["light", "dark"] {
        browser.scheme(scheme);
        for width in [360, 1280] {
            browser.resize(width);
            assert_eq!(browser.audit(), Vec::<String>::new(), "{scheme} {width}");
            browser.shoot(&format!("remembered-{scheme}-{width}"));
        }
    }
}
