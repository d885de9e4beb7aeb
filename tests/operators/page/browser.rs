//! A real browser, by `WebDriver` (W3C) and, for what that does not know, the `DevTools` protocol.

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use serde_json::{Value, json};

use crate::support::process::Process;
use crate::support::until::until;
use crate::support::{find, have, http};

/// Keys by their `WebDriver` names.
pub const TAB: &str = "\u{E004}";
pub const ENTER: &str = "\u{E007}";

/// A headless browser with one window. Ends when dropped.
pub struct Browser {
    _driver: Process,
    session: String,
    _scratch: tempfile::TempDir,
}

impl Browser {
    /// Starts one; prints SKIPPED where there is none.
    pub fn start() -> Option<Self> {
        if !have(&["chromium", "chromedriver"]) {
            return None;
        }
        let scratch = tempfile::tempdir().unwrap();
        let mut command = Command::new(find("chromedriver").unwrap());
        command.arg("--port=0");
        command.env("HOME", scratch.path());
        command.env("TMPDIR", scratch.path());
        let mut driver = Process::start(command, &scratch.path().join("log"));
        let port = driver.wait_for("started successfully on port ");
        let base = format!("http://127.0.0.1:{}/session", port.trim_end_matches('.'));
        let options = json!({
            "binary": find("chromium").unwrap(),
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                "--no-first-run", "--disable-background-networking", "--password-store=basic"],
        });
        let wanted =
            json!({ "capabilities": { "alwaysMatch": { "goog:chromeOptions": options } } });
        let begun = send("POST", &base, &wanted);
        let id = begun["sessionId"].as_str().unwrap();
        let browser = Self {
            session: format!("{base}/{id}"),
            _driver: driver,
            _scratch: scratch,
        };
        browser.resize(1280);
        Some(browser)
    }

    #[track_caller]
    fn post(&self, path: &str, body: &Value) -> Value {
        send("POST", &format!("{}/{path}", self.session), body)
    }

    /// Opens an address, and waits until it is loaded.
    #[track_caller]
    pub fn open(&self, url: &str) {
        self.post("url", &json!({ "url": url }));
    }

    /// What a script returns.
    #[track_caller]
    pub fn run(&self, script: &str) -> Value {
        self.post("execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// As [`Browser::run`]; `None` while another page is loaded, which takes the script away.
    fn try_run(&self, script: &str) -> Option<Value> {
        let body = json!({ "script": script, "args": [] }).to_string();
        let headers = [("content-type", "application/json")];
        let url = format!("{}/execute/sync", self.session);
        let answer = http::try_send("POST", &url, &headers, body.as_bytes()).ok()?;
        (answer.status == 200).then(|| answer.json()["value"].take())
    }

    /// The text that is seen of an element; empty if there is no such element.
    #[track_caller]
    pub fn text(&self, selector: &str) -> String {
        self.run(&text_of(selector)).as_str().unwrap().to_owned()
    }

    /// Waits until an element has a text.
    #[track_caller]
    pub fn wait_for(&self, selector: &str, text: &str) {
        until(&format!("{selector} says {text:?}"), || {
            let found = self.try_run(&text_of(selector))?;
            found.as_str()?.contains(text).then_some(())
        });
    }

    /// Waits until a script returns true.
    #[track_caller]
    pub fn wait_until(&self, script: &str) {
        until(script, || (self.run(script) == true).then_some(()));
    }

    /// Presses keys, one after the other.
    #[track_caller]
    pub fn press(&self, keys: &str) {
        let both = |key: char| {
            let key = key.to_string();
            [
                json!({ "type": "keyDown", "value": key }),
                json!({ "type": "keyUp", "value": key }),
            ]
        };
        let actions: Vec<Value> = keys.chars().flat_map(both).collect();
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": actions });
        self.post("actions", &json!({ "actions": [keyboard] }));
    }

    /// Presses the Tab key until a script that has the focused element as `it` returns true;
    /// each element on the way must show that it has the focus.
    #[track_caller]
    pub fn tab_to(&self, condition: &str) {
        for _ in 0..80 {
            self.press(TAB);
            let script = format!(
                "const it = document.activeElement; const style = getComputedStyle(it);
                 return [it === document.body || (style.outlineStyle !== 'none'
                     && parseFloat(style.outlineWidth) >= 2), it.outerHTML.slice(0, 200),
                     Boolean({condition})]"
            );
            let found = self.run(&script);
            assert_eq!(found[0], true, "no focus is seen: {}", found[1]);
            if found[2] == true {
                return;
            }
        }
        panic!("the Tab key does not lead to {condition}");
    }

    /// Clicks on an element as a mouse does.
    #[track_caller]
    pub fn click(&self, selector: &str) {
        let using = json!({ "using": "css selector", "value": selector });
        let found = self.post("element", &using);
        let id = found.as_object().unwrap().values().next().unwrap();
        let path = format!("element/{}/click", id.as_str().unwrap());
        self.post(&path, &json!({}));
    }

    #[track_caller]
    fn devtools(&self, command: &str, parameters: &Value) -> Value {
        let body = json!({ "cmd": command, "params": parameters });
        self.post("goog/cdp/execute", &body)
    }

    /// Makes the window so wide.
    #[track_caller]
    pub fn resize(&self, width: u64) {
        let size =
            json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", &size);
    }

    /// Has the system ask for `light` or `dark`.
    #[track_caller]
    pub fn scheme(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.devtools(
            "Emulation.setEmulatedMedia",
            &json!({ "features": features }),
        );
    }

    /// Takes scripts away from pages, or allows them.
    #[track_caller]
    pub fn disable_scripts(&self, is_disabled: bool) {
        let value = json!({ "value": is_disabled });
        self.devtools("Emulation.setScriptExecutionDisabled", &value);
    }

    /// A picture of the whole page, in the directory that `PAGE_SHOTS` names, if it does.
    #[track_caller]
    pub fn shoot(&self, name: &str) {
        let Ok(directory) = std::env::var("PAGE_SHOTS") else {
            return;
        };
        let whole = json!({ "captureBeyondViewport": true });
        let shot = self.devtools("Page.captureScreenshot", &whole);
        let engine = base64::engine::general_purpose::STANDARD;
        let bytes = engine.decode(shot["data"].as_str().unwrap()).unwrap();
        let path = Path::new(&directory).join(format!("{name}.png"));
        std::fs::write(path, bytes).unwrap();
    }

    /// What is wrong with the page for those who see or hear it otherwise.
    #[track_caller]
    pub fn audit(&self) -> Vec<String> {
        let found = self.run(include_str!("audit.js"));
        let found = found.as_array().unwrap().iter();
        found.map(|one| one.as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver is killed and would leave it.
        let _ = http::try_send("DELETE", &self.session, &[], b"");
    }
}

fn text_of(selector: &str) -> String {
    format!("return document.querySelector({selector:?})?.innerText ?? ''")
}

#[track_caller]
fn send(method: &str, url: &str, body: &Value) -> Value {
    let headers = [("content-type", "application/json")];
    let answer = http::send(method, url, &headers, body.to_string().as_bytes());
    assert_eq!(answer.status, 200, "{url} {body}: {answer:?}");
    answer.json()["value"].take()
}
