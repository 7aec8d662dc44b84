//! Everybody else's servers, and everything that can go wrong on the way to them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use loopgate::delivery::{Request, Response, SendError, Sending, Transport};
use loopgate::demo::server::{self, FhirServer};
use loopgate::fhir::xml;
use loopgate::time::{Clock, Timestamp};
use serde_json::Value;

/// Why a request that hangs is not answered.
const HANGS: &str = "it hangs";

/// What happens to the next requests to a host, in order; then they are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This one is answered as usual.
    None,
    /// The request never arrives.
    LoseRequest,
    /// It arrives and is acted on; the answer never comes back.
    LoseAnswer,
    /// It never arrives, and nobody gives it up.
    Hang,
    /// Nothing happens, and the answer is this status.
    Answer(u16),
    /// Nothing happens, and the answer is this: status, headers, body.
    Say(u16, &'static [(&'static str, &'static str)], &'static str),
}

/// Everybody else's servers, by base; hooks collect what they are sent.
#[derive(Clone, Default)]
pub struct World(Arc<Mutex<Places>>);

#[derive(Default)]
struct Places {
    houses: HashMap<String, FhirServer>,
    hooks: HashMap<String, Vec<Value>>,
    faults: HashMap<String, VecDeque<Fault>>,
    down: Vec<String>,
    deaf: Vec<String>,
    only_xml: Vec<String>,
    requests: Vec<String>,
    letters: Vec<Request>,
    pages: HashMap<String, (String, String)>,
    refusals: Vec<(String, VecDeque<u16>)>,
    always: Vec<(String, u16)>,
    slow: HashMap<String, (Clock, usize)>,
    /// What servers take for their own base.
    inside: HashMap<String, String>,
    /// Those that compare tags strongly.
    strong: Vec<String>,
    /// How far servers' clocks are ahead, in seconds.
    ahead: HashMap<String, i64>,
}

/// How long a slow server takes; each fourth time longer than anybody waits (`delivery.timeout`).
const SLOW: Duration = Duration::from_secs(15);

const WAITED: Duration = Duration::from_secs(20);

impl Places {
    fn tell_time(&mut self, now: Timestamp) {
        for (base, house) in &mut self.houses {
            let ahead = self.ahead.get(base).copied().unwrap_or(0);
            let off = Duration::from_secs(ahead.unsigned_abs());
            let theirs = if ahead < 0 { now.minus(off) } else { now.plus(off) };
            house.set_now(&theirs.to_string());
        }
    }
}

impl World {
    fn lock(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
    /// Opens a FHIR server at this base.
    pub fn open(&self, base: &str) {
        self.lock().houses.insert(base.to_string(), FhirServer::new(base));
    }
    /// Acts as the staff of the server at this base.
    pub fn at<T>(&self, base: &str, act: impl FnOnce(&mut FhirServer) -> T) -> T {
        act(self.lock().houses.get_mut(base).expect("no server at this base"))
    }
    /// The next requests to this base (or hook) meet these faults.
    pub fn fault(&self, base: &str, faults: &[Fault]) {
        self.lock().faults.entry(base.to_string()).or_default().extend(faults);
    }
    /// The next requests of this method to this type at this base are answered so, whatever comes in between.
    pub fn refuse(&self, base: &str, method: &str, kind: &str, statuses: &[u16]) {
        let start = format!("{method} {base}/{kind}");
        self.lock().refusals.push((start, statuses.iter().copied().collect()));
    }
    /// Every request that is exactly this, `METHOD url`, is answered so.
    pub fn refuse_exactly(&self, request: &str, status: u16) {
        self.lock().always.push((request.to_string(), status));
    }
    /// A document at this address, with its `Cache-Control`.
    pub fn page(&self, url: &str, cache_control: &str, body: &str) {
        self.lock().pages.insert(url.to_string(), (cache_control.to_string(), body.to_string()));
    }
    /// Nothing at this base answers until [`World::up`].
    pub fn down(&self, base: &str) {
        self.lock().down.push(base.to_string());
    }
    /// It answers again.
    pub fn up(&self, base: &str) {
        self.lock().down.retain(|down| down != base);
    }
    /// The notifications that arrived at a hook.
    pub fn heard(&self, hook: &str) -> Vec<Value> {
        self.lock().hooks.get(hook).cloned().unwrap_or_default()
    }
    /// `METHOD url` of every request the gateway sent, in order.
    pub fn requests(&self) -> Vec<String> {
        self.lock().requests.clone()
    }
    /// The requests themselves.
    pub fn letters(&self) -> Vec<Request> {
        self.lock().letters.clone()
    }
    /// The server at this base ignores searches by identifier and shows everything.
    pub fn deaf(&self, base: &str) {
        self.lock().deaf.push(base.to_string());
    }
    /// The server at this base writes XML, whatever it is asked for.
    pub fn only_xml(&self, base: &str) {
        self.lock().only_xml.push(base.to_string());
    }
    /// URL and body of every request with a body that the gateway sent, in order, whether it arrived or not.
    pub fn bodies(&self) -> Vec<(String, String)> {
        self.letters().into_iter().filter_map(|letter| Some((letter.url, letter.body?))).collect()
    }
    /// How many requests the gateway has sent.
    pub fn asked(&self) -> usize {
        self.lock().requests.len()
    }
    /// No fault is left, and everybody is up.
    pub fn heal(&self) {
        let mut places = self.lock();
        places.faults.clear();
        places.always.clear();
        places.down.clear();
        places.slow.clear();
    }
    /// The server at this base takes its time, by this clock: 15 seconds an answer, and each fourth comes too late,
    /// whatever it has done.
    pub fn slow(&self, base: &str, clock: &Clock) {
        self.lock().slow.insert(base.to_string(), (clock.clone(), 0));
    }
    /// The server at this base stands behind a proxy, and takes this for its own base.
    pub fn inside(&self, base: &str, inside: &str) {
        self.lock().inside.insert(base.to_string(), inside.to_string());
    }
    /// The server at this base compares tags strongly: a weak one in `If-Match` never matches.
    pub fn strong(&self, base: &str) {
        self.lock().strong.push(base.to_string());
    }
    /// The clock of the server at this base is so many seconds ahead of everybody's, or behind.
    pub fn ahead(&self, base: &str, seconds: i64) {
        self.lock().ahead.insert(base.to_string(), seconds);
    }
    /// Sets everybody's clock, as wrong as it is.
    pub fn tell_time(&self, now: &str) {
        self.lock().tell_time(Timestamp::parse(now).expect("an instant"));
    }

    fn answer(&self, request: Request) -> Result<Response, SendError> {
        let mut places = self.lock();
        places.requests.push(format!("{} {}", request.method, request.url));
        places.letters.push(request.clone());
        let lost = || Err(SendError("no answer in time".into()));
        let house = places.houses.keys().find(|base| request.url.starts_with(base.as_str())).cloned();
        let place = house.clone().unwrap_or_else(|| request.url.clone());
        if places.down.contains(&place) {
            return lost();
        }
        let fault = places.faults.get_mut(&place).and_then(VecDeque::pop_front);
        match fault {
            Some(Fault::LoseRequest) => return lost(),
            Some(Fault::Hang) => return Err(SendError(HANGS.into())),
            Some(Fault::Answer(status)) => return Ok(Response { status, headers: vec![], body: b"{}".to_vec() }),
            Some(Fault::Say(status, headers, body)) => {
                let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
                return Ok(Response { status, headers, body: body.as_bytes().to_vec() });
            }
            Some(Fault::LoseAnswer | Fault::None) | None => {}
        }
        let asked = format!("{} {}", request.method, request.url);
        let refusal = places.refusals.iter_mut().find(|(start, left)| asked.starts_with(start) && !left.is_empty());
        if let Some(status) = refusal.and_then(|(_, left)| left.pop_front()) {
            return Ok(Response { status, headers: vec![], body: b"{}".to_vec() });
        }
        if let Some((_, status)) = places.always.iter().find(|(exactly, _)| *exactly == asked) {
            return Ok(Response { status: *status, headers: vec![], body: b"{}".to_vec() });
        }
        if let Some((kept, body)) = places.pages.get(&request.url) {
            let headers = vec![("cache-control".to_string(), kept.clone())];
            return Ok(Response { status: 200, headers, body: body.clone().into_bytes() });
        }
        let mut request = request;
        if places.deaf.iter().any(|base| request.url.starts_with(base.as_str())) {
            request.url = request.url.split("?identifier=").next().unwrap_or_default().to_string();
        }
        let weak = request.headers.iter().any(|(name, value)| name == "if-match" && value.starts_with("W/"));
        if weak && places.strong.contains(&place) {
            return Ok(Response { status: 412, headers: vec![], body: b"{}".to_vec() });
        }
        let in_xml = house.as_ref().is_some_and(|base| places.only_xml.contains(base));
        let mut answer = match house.and_then(|base| places.houses.get_mut(&base)) {
            Some(house) => {
                let answer = house.answer(&server::Request {
                    method: request.method.to_string(),
                    target: request.url,
                    headers: request.headers,
                    body: request.body.unwrap_or_default(),
                });
                let headers = answer.headers.into_iter().map(|(name, value)| (name.to_lowercase(), value));
                Response { status: answer.status, headers: headers.collect(), body: answer.body.into_bytes() }
            }
            None if request.url.contains("/hook") => {
                let heard = request.body.map(|body| serde_json::from_str(&body).unwrap_or(Value::String(body)));
                places.hooks.entry(request.url).or_default().extend(heard);
                Response { status: 200, headers: vec![], body: vec![] }
            }
            None => return Err(SendError("no connection".into())),
        };
        if let Some(inside) = places.inside.get(&place) {
            answer.body = String::from_utf8(answer.body).unwrap().replace(&place, inside).into_bytes();
            answer.headers.iter_mut().for_each(|(_, value)| *value = value.replace(&place, inside));
        }
        if in_xml && !answer.body.is_empty() {
            answer.body = xml::write(&serde_json::from_slice(&answer.body).unwrap()).into_bytes();
            answer.headers.retain(|(name, _)| name != "content-type");
            answer.headers.push(("content-type".into(), "application/fhir+xml;charset=utf-8".into()));
        }
        let mut in_time = true;
        if let Some((clock, asked)) = places.slow.get_mut(&place) {
            *asked += 1;
            in_time = *asked % 4 != 0;
            clock.advance(if in_time { SLOW } else { WAITED });
            let now = clock.now();
            places.tell_time(now);
        }
        if fault == Some(Fault::LoseAnswer) || !in_time { lost() } else { Ok(answer) }
    }
}

impl Transport for World {
    fn send(&self, request: Request) -> Sending {
        let world = self.clone();
        Box::pin(async move {
            match world.answer(request) {
                Err(SendError(why)) if why == HANGS => std::future::pending().await,
                answer => answer,
            }
        })
    }
}
