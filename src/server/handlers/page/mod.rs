//! The status page on the admin address: what the proxy does, and buttons to steer it.
//!
//! It is whole without scripts. With them its live part follows by server-sent events, and
//! buttons leave the page where it is. Nothing comes from anywhere else.

mod actions;
mod cache;
mod conversions;
mod events;
mod failures;
mod form;
mod html;
mod live;
mod policy;
mod upstreams;

use std::sync::Arc;
use std::time::SystemTime;

use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName,
    HeaderValue, LOCATION, REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use crate::server::http::activity::ActiveRequest;
use crate::server::http::body::ResponseBody;
use crate::server::state::AppState;
use events::Places;
use form::Filled;
use html::Html;
use live::LivePart;

/// Where the buttons of the page lead.
pub(in crate::server) const ACTIONS: &str = "/actions";

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// The headers of every answer. Browsers do not say where a form comes from under `no-referrer`,
/// which `Origin` is needed for; `same-origin` tells others as little.
const HEADERS: [(HeaderName, &str); 4] = [
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
         img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "same-origin"),
    (CACHE_CONTROL, "no-store"),
];

/// What all who look at the page share.
#[derive(Debug)]
pub(in crate::server) struct Page {
    live: Arc<LivePart>,
    places: Places,
}

/// What is said above everything else.
enum Message {
    None,
    Done(&'static str),
    Failed(String),
}

impl Page {
    pub fn new() -> Self {
        Self {
            live: Arc::default(),
            places: Places::new(),
        }
    }

    /// Whether requests for this path are for the page.
    pub fn has(path: &str) -> bool {
        matches!(path, "/" | ACTIONS) || path.starts_with("/page/")
    }

    /// Answers a request for the page or a part of it. `busy` keeps the connection from being idle.
    pub async fn answer(
        &self,
        state: &Arc<AppState>,
        request: Request<Incoming>,
        busy: ActiveRequest,
    ) -> Response<ResponseBody> {
        let is_head = *request.method() == Method::HEAD;
        let is_read = is_head || *request.method() == Method::GET;
        let path = request.uri().path();
        let methods = if path == ACTIONS { "POST" } else { "GET, HEAD" };
        if is_read == (path == ACTIONS) || (!is_read && *request.method() != Method::POST) {
            let text = format!("only {methods}\n");
            let mut answer = text_answer(StatusCode::METHOD_NOT_ALLOWED, PLAIN, text, is_head);
            let headers = answer.headers_mut();
            headers.insert(ALLOW, HeaderValue::from_static(methods));
            return answer;
        }
        match path {
            "/" => {
                let query = request.uri().query().unwrap_or_default();
                let (filled, message) = asked(query);
                let text = self.whole(state, &filled, message).await;
                text_answer(StatusCode::OK, HTML, text, is_head)
            }
            ACTIONS => self.act(state, request).await,
            "/page/style.css" => text_answer(StatusCode::OK, CSS, STYLE, is_head),
            "/page/script.js" => text_answer(StatusCode::OK, JAVASCRIPT, SCRIPT, is_head),
            "/page/events" if is_head => {
                with_headers(StatusCode::OK, EVENTS, ResponseBody::empty())
            }
            "/page/events" => {
                let stream = events::stream(&self.places, state, &self.live, busy);
                let Some(body) = stream else {
                    let text = "too many look at the page: reload it for what is new\n";
                    let status = StatusCode::SERVICE_UNAVAILABLE;
                    let mut answer = text_answer(status, PLAIN, text, false);
                    let headers = answer.headers_mut();
                    headers.insert(RETRY_AFTER, HeaderValue::from_static("10"));
                    return answer;
                };
                with_headers(StatusCode::OK, EVENTS, body)
            }
            _ => text_answer(StatusCode::NOT_FOUND, PLAIN, "the page is at /\n", is_head),
        }
    }

    async fn act(
        &self,
        state: &Arc<AppState>,
        request: Request<Incoming>,
    ) -> Response<ResponseBody> {
        let acted = Box::pin(actions::act(state, request)).await;
        self.live.forget().await;
        match acted {
            Ok(done) => {
                let mut answer = text_answer(StatusCode::SEE_OTHER, PLAIN, "see /\n", false);
                if let Ok(to) = HeaderValue::from_str(&format!("/?done={done}")) {
                    answer.headers_mut().insert(LOCATION, to);
                }
                answer
            }
            Err(failed) => {
                let message = Message::Failed(failed.text);
                let text = self.whole(state, &failed.filled, message).await;
                text_answer(failed.status, HTML, text, false)
            }
        }
    }

    /// The whole page.
    async fn whole(&self, state: &AppState, filled: &Filled, message: Message) -> String {
        let (live, policy) = tokio::join!(
            self.live.get(state),
            Box::pin(policy::section(state, &filled.image))
        );
        let is_on = state.config.admin_token_file.is_some();
        let mut head = Html::new();
        head.raw(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <meta name=\"color-scheme\" content=\"light dark\">\
             <title>overlaybd-proxy</title><link rel=\"icon\" href=\"data:,\">\
             <link rel=\"stylesheet\" href=\"/page/style.css\">\
             <script src=\"/page/script.js\" defer></script></head><body>\
             <a class=\"skip\" href=\"#now\">Skip to the conversions</a>\
             <header><h1>overlaybd-proxy <small>",
        );
        head.text(env!("CARGO_PKG_VERSION"));
        head.raw("</small></h1><p>Converts images to overlaybd format as they are pulled.</p>");
        head.raw("<div class=\"line\" role=\"status\"><span id=\"status\">");
        let mut middle = Html::new();
        middle.raw("</span> <span id=\"connection\">As of ");
        middle.piece(&html::time(SystemTime::now()));
        middle.raw(": <a href=\"/\">reload</a></span></div></header><div id=\"message\">");
        match message {
            Message::None => &mut middle,
            Message::Done(text) => middle
                .raw("<p role=\"status\" class=\"message good\">")
                .raw(text)
                .raw("</p>"),
            Message::Failed(text) => middle
                .raw("<p role=\"alert\" class=\"message bad\">")
                .text(text)
                .raw("</p>"),
        };
        middle.raw("</div><div class=\"columns\"><div class=\"forms\">");
        middle.piece(&form::changes(filled, is_on));
        middle.piece(&form::policy(filled));
        middle.raw("</div><main>");
        middle.piece(&policy);
        middle.raw("<div id=\"live\">");
        let mut text = head.into_string();
        text.push_str(&live.status);
        text.push_str(middle.as_str());
        text.push_str(&live.sections);
        text.push_str("</div></main></div></body></html>\n");
        text
    }
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";
const EVENTS: &str = "text/event-stream";

fn with_headers(
    status: StatusCode,
    media_type: &'static str,
    body: ResponseBody,
) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn text_answer(
    status: StatusCode,
    media_type: &'static str,
    text: impl Into<String>,
    is_head: bool,
) -> Response<ResponseBody> {
    let text = text.into();
    let length = HeaderValue::from(text.len());
    let body = if is_head {
        ResponseBody::empty()
    } else {
        ResponseBody::bytes(text)
    };
    let mut response = with_headers(status, media_type, body);
    response.headers_mut().insert(CONTENT_LENGTH, length);
    response
}

/// What the page's query asks for. What is not known is not heeded: links may have more in them.
fn asked(query: &str) -> (Filled, Message) {
    let (mut filled, mut message) = (Filled::default(), Message::None);
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*key {
            "image" => value.trim().clone_into(&mut filled.image),
            "done" => message = actions::done(&value).map_or(Message::None, Message::Done),
            _ => {}
        }
    }
    (filled, message)
}
