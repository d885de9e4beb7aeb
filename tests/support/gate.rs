//! A reverse proxy before a registry, in which requests can be held up or refused, and answers
//! damaged or halted on their way.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::until::until;

const PIECE: usize = 64 << 10;

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// A reverse proxy. Ends when dropped.
pub struct Gate {
    address: SocketAddr,
    rules: Arc<Mutex<Rules>>,
    _runtime: Runtime,
}

#[derive(Default)]
struct Rules {
    holds: Vec<Hold>,
    refused: Vec<String>,
    /// The status of every answer.
    failing: Option<StatusCode>,
    /// A part of paths, and the status of their answers.
    failing_where: Option<(String, StatusCode)>,
    /// Parts of paths, and how many answers to a GET of each are damaged.
    damaged: Vec<(String, usize)>,
    /// Parts of paths, after how many bytes the next whole answer to a GET of each halts, and until
    /// when.
    halted: Vec<(String, usize, Hold)>,
    /// The same of answers with a range.
    damaged_ranges: Vec<(String, usize)>,
    /// How long each answer is held back.
    delay: Duration,
    /// The most requests that were made one after the other, each behind the answer to the one
    /// before: round trips that a client waits for.
    rounds: usize,
    /// `METHOD PATH` of all requests, with ` RANGE` of those that have one.
    seen: Vec<String>,
}

impl Rules {
    fn see(&mut self, request: &Request<Incoming>) {
        let range = request.headers().get("range");
        let range = range.map(|range| format!(" {}", range.to_str().unwrap()));
        let (method, path) = (request.method(), request.uri().path());
        let seen = format!("{method} {path}{}", range.unwrap_or_default());
        self.seen.push(seen);
    }

    /// Where the answer to a GET halts.
    fn halts(&mut self, path: &str) -> Option<(usize, Hold)> {
        let place = self
            .halted
            .iter()
            .position(|(part, ..)| path.contains(part));
        place
            .map(|place| self.halted.remove(place))
            .map(|(_, at, hold)| (at, hold))
    }

    /// Whether the answer to a GET is to be damaged; counted down.
    fn damages(&mut self, path: &str, is_range: bool) -> bool {
        let rules = if is_range {
            &mut self.damaged_ranges
        } else {
            &mut self.damaged
        };
        let mut rules = rules.iter_mut();
        let rule = rules.find(|(part, left)| path.contains(part.as_str()) && *left > 0);
        rule.map(|(_, left)| *left -= 1).is_some()
    }
}

/// A request that is held up.
#[derive(Clone)]
pub struct Hold {
    method: String,
    part: String,
    state: Arc<watch::Sender<State>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has not come yet.
    Open,
    Held,
    Released,
    /// Nothing more comes.
    Cut,
}

impl Hold {
    /// Waits until the request is held up.
    #[track_caller]
    pub fn wait(&self) {
        let what = format!("{} …{}… is asked for", self.method, self.part);
        until(&what, || {
            (*self.state.borrow() == State::Held).then_some(())
        });
    }

    /// That it halts.
    fn hold(&self) {
        self.state.send_if_modified(|state| {
            let is_first = *state == State::Open;
            if is_first {
                *state = State::Held;
            }
            is_first
        });
    }

    /// Lets it go on.
    pub fn release(&self) {
        self.state.send_replace(State::Released);
    }

    /// Ends an answer that halts, too early.
    pub fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    fn is_cut(&self) -> bool {
        *self.state.borrow() == State::Cut
    }

    /// Whether this is for a request; it is for one only.
    fn takes(&self, method: &str, path: &str) -> bool {
        let is_it = self.method == method && path.contains(&self.part);
        is_it
            && self.state.send_if_modified(|state| {
                let is_first = *state == State::Open;
                if is_first {
                    *state = State::Held;
                }
                is_first
            })
    }

    async fn pass(&self) {
        let mut state = self.state.subscribe();
        let is_over = |state: &State| matches!(state, State::Released | State::Cut);
        let _ = state.wait_for(is_over).await;
    }
}

impl Gate {
    /// Before the registry at `upstream`, `HOST:PORT`.
    pub fn before(upstream: &str) -> Self {
        let runtime = Runtime::new().unwrap();
        let rules: Arc<Mutex<Rules>> = Arc::default();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (upstream, known) = (upstream.to_owned(), Arc::clone(&rules));
        runtime.spawn(async move {
            let client = Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(0)
                .build_http();
            while let Ok((stream, _)) = listener.accept().await {
                let (client, upstream) = (client.clone(), upstream.clone());
                let rules = Arc::clone(&known);
                let service = service_fn(move |request| {
                    let (client, upstream) = (client.clone(), upstream.clone());
                    let rules = Arc::clone(&rules);
                    async move { Ok::<_, Infallible>(pass(&client, &upstream, &rules, request).await) }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self {
            address,
            rules,
            _runtime: runtime,
        }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Holds up the next request of `method` with `part` in its path.
    pub fn hold(&self, method: &str, part: &str) -> Hold {
        let hold = Hold {
            method: method.to_owned(),
            part: part.to_owned(),
            state: Arc::new(watch::Sender::new(State::Open)),
        };
        self.rules.lock().holds.push(hold.clone());
        hold
    }

    /// Halts the next whole answer to a GET with `part` in its path after about `bytes` bytes of it.
    pub fn halt(&self, part: &str, bytes: usize) -> Hold {
        let hold = Hold {
            method: "GET".to_owned(),
            part: part.to_owned(),
            state: Arc::new(watch::Sender::new(State::Open)),
        };
        let mut rules = self.rules.lock();
        rules.halted.push((part.to_owned(), bytes, hold.clone()));
        hold
    }

    /// The requests so far: `METHOD PATH`, and ` RANGE` where there is one.
    pub fn seen(&self) -> Vec<String> {
        self.rules.lock().seen.clone()
    }

    /// How many of the requests begin with `method` and have `part` in them.
    pub fn count(&self, method: &str, part: &str) -> usize {
        let seen = self.seen();
        let of_kind = seen
            .iter()
            .filter(|it| it.starts_with(method) && it.contains(part));
        of_kind.count()
    }

    /// Flips a byte in the middle of the next `times` answers to a GET with `part` in its path.
    pub fn damage(&self, part: &str, times: usize) {
        let mut rules = self.rules.lock();
        rules.damaged.push((part.to_owned(), times));
    }

    /// As [`Gate::damage`], of answers with a range.
    pub fn damage_ranges(&self, part: &str, times: usize) {
        let mut rules = self.rules.lock();
        rules.damaged_ranges.push((part.to_owned(), times));
    }

    /// Holds every answer back for so long.
    pub fn delay(&self, delay: Duration) {
        self.rules.lock().delay = delay;
    }

    /// How many round trips the longest row of requests took of which each was made after the
    /// answer to the one before. With a delay, those that are made at the same time are one.
    pub fn rounds(&self) -> usize {
        self.rules.lock().rounds
    }

    /// Answers every request with this status from now on, or passes them on again.
    pub fn fail(&self, status: Option<StatusCode>) {
        self.rules.lock().failing = status;
    }

    /// As [`Gate::fail`], for the paths that have `part`.
    pub fn fail_where(&self, part: &str, status: Option<StatusCode>) {
        self.rules.lock().failing_where = status.map(|status| (part.to_owned(), status));
    }

    /// Answers 401 to requests with this value of `Authorization`, from now on.
    pub fn refuse(&self, authorization: &str) {
        let mut rules = self.rules.lock();
        rules.refused.push(authorization.to_owned());
    }
}

async fn pass(
    client: &Client<HttpConnector, Incoming>,
    upstream: &str,
    rules: &Mutex<Rules>,
    request: Request<Incoming>,
) -> Response<Body> {
    let (round, delay) = {
        let rules = rules.lock();
        (rules.rounds + 1, rules.delay)
    };
    let response = answer(client, upstream, rules, request).await;
    tokio::time::sleep(delay).await;
    let mut rules = rules.lock();
    rules.rounds = rules.rounds.max(round);
    response
}

async fn answer(
    client: &Client<HttpConnector, Incoming>,
    upstream: &str,
    rules: &Mutex<Rules>,
    mut request: Request<Incoming>,
) -> Response<Body> {
    let path = request.uri().path_and_query().unwrap().to_string();
    let hold = {
        let mut rules = rules.lock();
        rules.see(&request);
        let mut holds = rules.holds.iter();
        let method = request.method().as_str();
        holds.find(|hold| hold.takes(method, &path)).cloned()
    };
    if let Some(hold) = hold {
        hold.pass().await;
    }
    let failing = {
        let rules = rules.lock();
        let here = rules.failing_where.as_ref();
        let here = here.filter(|(part, _)| path.contains(part.as_str()));
        rules.failing.or(here.map(|(_, status)| *status))
    };
    if let Some(failing) = failing {
        return status(failing);
    }
    let given = request.headers().get("authorization");
    let given = given.map(|value| value.to_str().unwrap().to_owned());
    let is_refused = given.is_some_and(|given| rules.lock().refused.contains(&given));
    if is_refused {
        return status(StatusCode::UNAUTHORIZED);
    }
    // The Host stays as it came, so that the registry's locations lead here.
    *request.uri_mut() = format!("http://{upstream}{path}").parse::<Uri>().unwrap();
    let is_get = request.method() == http::Method::GET;
    match client.request(request).await {
        Ok(response) if is_get && response.status() == StatusCode::PARTIAL_CONTENT => {
            if rules.lock().damages(&path, true) {
                damaged(response).await
            } else {
                response.map(http_body_util::BodyExt::boxed_unsync)
            }
        }
        Ok(response) if is_get && response.status() == StatusCode::OK => {
            let halted = rules.lock().halts(&path);
            let is_damaged = rules.lock().damages(&path, false);
            if is_damaged {
                let response = damaged(response).await;
                match halted {
                    Some((at, hold)) => response.map(|body| halting(body, at, hold)),
                    None => response,
                }
            } else if let Some((at, hold)) = halted {
                response.map(|body| halting(body.boxed_unsync(), at, hold))
            } else {
                response.map(http_body_util::BodyExt::boxed_unsync)
            }
        }
        Ok(response) => response.map(http_body_util::BodyExt::boxed_unsync),
        Err(_) => status(StatusCode::BAD_GATEWAY),
    }
}

/// A body that halts after about so many bytes.
fn halting(body: Body, at: usize, hold: Hold) -> Body {
    let stream =
        futures_util::stream::unfold((body, at, hold), |(mut body, left, hold)| async move {
            if left == 0 {
                hold.hold();
                hold.pass().await;
                if hold.is_cut() {
                    return None;
                }
            }
            let data = match body.frame().await? {
                Ok(frame) => frame.into_data().unwrap_or_default(),
                Err(error) => return Some((Err(error), (body, left, hold))),
            };
            // Only once it comes to nothing.
            let left = match left {
                0 => usize::MAX,
                left => left.saturating_sub(data.len()),
            };
            Some((Ok(Frame::data(data)), (body, left, hold)))
        });
    StreamBody::new(stream).boxed_unsync()
}

async fn damaged(response: Response<Incoming>) -> Response<Body> {
    let (head, body) = response.into_parts();
    let mut bytes = body.collect().await.unwrap().to_bytes().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    // In pieces, as the others come.
    let bytes = Bytes::from(bytes);
    let pieces = (0..bytes.len()).step_by(PIECE).map(move |at| {
        let end = (at + PIECE).min(bytes.len());
        Ok(Frame::data(bytes.slice(at..end)))
    });
    let body = StreamBody::new(futures_util::stream::iter(pieces));
    Response::from_parts(head, body.boxed_unsync())
}

fn status(status: StatusCode) -> Response<Body> {
    let body = Empty::new().map_err(|never| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    response
}
