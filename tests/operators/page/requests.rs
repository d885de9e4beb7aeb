//! What the page's addresses answer to whatever is sent there.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::json;

use super::support::until::until;
use super::{Started, TOKEN, http, image};

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

#[test]
fn changes_need_the_token_in_a_form_of_this_page() {
    let Some(started) = Started::new(true) else {
        return;
    };
    let url = format!("{}actions", started.page());
    let good = format!("token={TOKEN}&action=convert&repository=app&tag=1&registry=");
    let origin = started.proxy.admin().to_owned();
    let long = format!("{good}&x={}", "y".repeat(70_000));
    for (status, headers, body, text) in [
        (
            403,
            &[FORM][..],
            good.replace(TOKEN, "fedcba9876543210"),
            "the token is wrong",
        ),
        (
            403,
            &[FORM],
            good.replace(TOKEN, ""),
            "the token is missing",
        ),
        (
            403,
            &[FORM, ("sec-fetch-site", "cross-site")],
            good.clone(),
            "another site",
        ),
        (
            403,
            &[FORM, ("origin", "http://evil.example")],
            good.clone(),
            "another origin",
        ),
        (
            403,
            &[FORM, ("origin", "null")],
            good.clone(),
            "another origin",
        ),
        (
            415,
            &[("content-type", "text/plain")],
            good.clone(),
            "a form is expected",
        ),
        (415, &[], good.clone(), "a form is expected"),
        (400, &[FORM], long, "more than"),
        (400, &[FORM], format!("{good}&more=1"), "not known"),
        (
            400,
            &[FORM],
            format!("{good}&tag=2"),
            "tag is there more than once",
        ),
        (
            400,
            &[FORM],
            good.replace("convert", "destroy"),
            "no such button",
        ),
        (
            400,
            &[FORM],
            good.replace("convert", "retry+x"),
            "no such button",
        ),
        (400, &[FORM], good.replace("=app", "=A"), "Repository: "),
        (
            404,
            &[FORM],
            good.replace("convert", "cancel+7"),
            "no such conversion",
        ),
        (404, &[FORM], good.replace("tag=1", "tag=none"), "none"),
        (409, &[FORM], good.replace("=app", "=secret/app"), "policy"),
    ] {
        let answer = http::send("POST", &url, headers, body.as_bytes());
        assert_eq!(answer.status, status, "{text}: {answer:?}");
        let page = answer.text();
        let alert = page.split("role=\"alert\"").nth(1).unwrap_or_default();
        assert!(alert.contains(text), "{text} in {alert}");
        assert!(!page.contains(TOKEN), "{text}");
    }
    assert_eq!(http::send("GET", &url, &[], b"").status, 405);
    assert_eq!(
        http::send("PUT", &url, &[FORM], good.as_bytes()).status,
        405
    );
    assert_eq!(
        http::send("POST", &started.page(), &[FORM], good.as_bytes()).status,
        405
    );
    let list = http::get(&format!("{}api/v1/conversions", started.page()));
    assert_eq!(list.json()["conversions"], serde_json::json!([]));

    let own = [FORM, ("origin", &origin), ("sec-fetch-site", "same-origin")];
    let answer = http::send("POST", &url, &own, good.as_bytes());
    assert_eq!(answer.status, 303, "{answer:?}");
    assert_eq!(answer.header("location"), Some("/?done=begun"));
    until("it is converted", || {
        let list = http::get(&format!("{}api/v1/conversions", started.page()));
        (list.json()["conversions"][0]["state"] == "converted").then_some(())
    });
    let answer = http::send("POST", &url, &[FORM], good.as_bytes());
    assert_eq!(answer.header("location"), Some("/?done=known"));
    let forget = format!("token={TOKEN}&action=forget-all");
    let answer = http::send("POST", &url, &[FORM], forget.as_bytes());
    assert_eq!(answer.header("location"), Some("/?done=nothing"));
}

#[test]
fn every_answer_keeps_the_page_to_itself() {
    let Some(started) = Started::new(true) else {
        return;
    };
    for (path, media_type) in [
        ("", "text/html; charset=utf-8"),
        ("page/style.css", "text/css; charset=utf-8"),
        ("page/script.js", "text/javascript; charset=utf-8"),
        ("page/none", "text/plain; charset=utf-8"),
        ("actions", "text/plain; charset=utf-8"),
    ] {
        for method in ["GET", "HEAD"] {
            let url = format!("{}{path}", started.page());
            let answer = http::send(method, &url, &[], b"");
            let policy = answer.header("content-security-policy").unwrap();
            for part in [
                "default-src 'none'",
                "form-action 'self'",
                "frame-ancestors 'none'",
            ] {
                assert!(policy.contains(part), "{policy}");
            }
            assert!(!policy.contains("unsafe"), "{policy}");
            assert_eq!(answer.header("content-type"), Some(media_type), "{path}");
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
            assert_eq!(answer.header("referrer-policy"), Some("same-origin"));
            assert_eq!(answer.header("cache-control"), Some("no-store"));
            assert!(answer.header("set-cookie").is_none());
            assert_eq!(answer.body.is_empty(), method == "HEAD", "{answer:?}");
        }
    }
    // What it shows is nowhere but at the operators' address.
    let elsewhere = format!("{}/page/style.css", started.proxy.url());
    assert_eq!(http::get(&elsewhere).status, 404);
}

/// A connection that looks at the page: the answer's head is read.
fn look(started: &Started) -> (TcpStream, String) {
    let address = started.proxy.admin().trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET /page/events HTTP/1.1\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    (stream, String::from_utf8(head).unwrap())
}

#[test]
fn so_many_look_at_one_time_and_none_holds_the_end_up() {
    let Some(started) = Started::new(true) else {
        return;
    };
    let mut looking: Vec<(TcpStream, String)> = (0..16).map(|_| look(&started)).collect();
    for (_, head) in &looking {
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.contains("content-type: text/event-stream"), "{head}");
    }
    let (_, refused) = look(&started);
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert!(refused.contains("retry-after: "), "{refused}");
    looking.pop();
    let again = until("a place is free", || {
        let (stream, head) = look(&started);
        head.starts_with("HTTP/1.1 200 ").then_some(stream)
    });
    looking.push((again, String::new()));

    started.proxy.signal(nix::sys::signal::Signal::SIGTERM);
    for (stream, _) in &mut looking {
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        // To its end, and not cut.
        assert!(
            rest.ends_with("0\r\n\r\n"),
            "{}",
            &rest[rest.len().saturating_sub(200)..]
        );
        assert!(rest.contains("event: status\ndata: "), "{rest}");
        assert!(rest.contains("event: live\ndata: <section"), "{rest}");
    }
}

#[test]
fn the_page_says_what_helps_against_an_error_and_how_much_was_not_read_again() {
    let Some(started) = Started::new(false) else {
        return;
    };
    let page = || http::get(&started.page()).text();
    assert!(page().contains("<dt>Not read again</dt><dd>0 B of 0 layers found</dd>"));
    let answer = started.pull("app").join().unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    // The same two layers, and one more.
    let mut more = image(1, 3);
    more.config["config"] = json!({ "Cmd": ["/bin/sh"] });
    started.registry.push("more", "1", &more.seal());
    let answer = started.pull("more").join().unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let both = started.app.blobs[1].bytes.len() + started.app.blobs[2].bytes.len();
    let size = indicatif::BinaryBytes(both as u64).to_string();
    let saved = format!("<dt>Not read again</dt><dd>{size} of 2 layers found</dd>");
    // What changes is made anew once a second at most.
    until(&saved, || page().contains(&saved).then_some(()));

    let remedy = "push it again with a tool that writes its config from its layers";
    assert!(!page().contains(remedy));
    let mut lies = image(3, 1);
    lies.config["rootfs"]["diff_ids"] = json!([format!("sha256:{}", "0".repeat(64))]);
    started.registry.push("lies", "1", &lies.seal());
    let answer = started.pull("lies").join().unwrap();
    assert_eq!(answer.status, 400, "{answer:?}");
    // Where it ended, and where it is remembered.
    until(remedy, || {
        (page().matches(remedy).count() == 2).then_some(())
    });
}
