//! Referrals and their relays: what the gateway knows about a Task besides the Task itself.

use crate::error::Error;
use crate::fhir::reference::split_absolute;
use crate::fhir::search_index::number;
use crate::fhir::{Key, ResourceType};
use crate::store::grants::marks;
use crate::store::later::Shape;
use crate::store::{Row, Tx};
use crate::time::Timestamp;

/// A source's Task that we broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referral {
    /// The Task's id here.
    pub task: String,
    /// The partner that referred.
    pub source: String,
    /// The focus as it was sent: absolute, or `ServiceRequest/id`.
    pub focus: String,
    /// The partner that was named as performer.
    pub performer: Option<String>,
    /// Its HealthcareService that was named.
    pub service: Option<String>,
    /// The Task's URL at the source's server, when it is kept there (direct light).
    pub kept_at: Option<String>,
    /// Our copy of the ServiceRequest.
    pub request: Option<String>,
    /// Our copy of the patient, as `Type/id`.
    pub patient: Option<String>,
    /// Whether everything it refers to has been copied.
    pub fetched: bool,
    /// Whether it waits for a coordinator.
    pub held: bool,
    /// Why it waits.
    pub held_why: Option<String>,
    /// The version of the Task that ended it.
    pub closing: Option<i64>,
    /// When the source was first seen to have that version.
    pub informed_at: Option<Timestamp>,
    /// How we know.
    pub informed_how: Option<String>,
    /// When it arrived.
    pub created: Timestamp,
}

impl Referral {
    /// A referral that has just arrived: nothing of it is fetched, and nobody was named.
    pub fn new(task: &str, source: &str, focus: String, created: Timestamp) -> Referral {
        Referral {
            task: task.to_string(),
            source: source.to_string(),
            focus,
            performer: None,
            service: None,
            kept_at: None,
            request: None,
            patient: None,
            fetched: false,
            held: false,
            held_why: None,
            closing: None,
            informed_at: None,
            informed_how: None,
            created,
        }
    }
}

/// Our Task to one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// Our Task's id.
    pub task: String,
    /// The source's Task.
    pub referral: String,
    /// The target; none while the Task is open for claiming.
    pub partner: Option<String>,
    /// The HealthcareService it is asked for.
    pub service: Option<String>,
    /// `fhir`, `light` or `open`.
    pub channel: String,
    /// Our ServiceRequest's id.
    pub request: String,
    /// The Task's URL at the target's server.
    pub remote: Option<String>,
    /// The source called it off, and the target does not know yet.
    pub withdrawn: bool,
    /// When the target had it.
    pub reached: Option<Timestamp>,
    /// When it was relayed.
    pub created: Timestamp,
}

const REFERRALS: Shape = Shape::new(
    "referral",
    &[
        "task",
        "source",
        "focus",
        "performer",
        "service",
        "kept_at",
        "request",
        "patient",
        "fetched",
        "held",
        "held_why",
        "closing",
        "informed_at",
        "informed_how",
        "created",
    ],
    1,
);
const RELAYS: Shape = Shape::new(
    "relay",
    &["task", "referral", "partner", "service", "channel", "request", "remote", "withdrawn", "reached", "created"],
    1,
);
const REFERRAL: &str = "task, source, focus, performer, service, kept_at, request, patient, fetched, held, held_why,
    closing, informed_at, informed_how, created";
const RELAY: &str = "task, referral, partner, service, channel, request, remote, withdrawn, reached, created";

fn referral_of(row: &Row) -> Result<Referral, Error> {
    Ok(Referral {
        task: row.text(0)?,
        source: row.text(1)?,
        focus: row.text(2)?,
        performer: row.text_or_null(3)?,
        service: row.text_or_null(4)?,
        kept_at: row.text_or_null(5)?,
        request: row.text_or_null(6)?,
        patient: row.text_or_null(7)?,
        fetched: row.flag(8)?,
        held: row.flag(9)?,
        held_why: row.text_or_null(10)?,
        closing: row.int_or_null(11)?,
        informed_at: row.time_or_null(12)?,
        informed_how: row.text_or_null(13)?,
        created: row.time(14)?,
    })
}

fn relay_of(row: &Row) -> Result<Relay, Error> {
    Ok(Relay {
        task: row.text(0)?,
        referral: row.text(1)?,
        partner: row.text_or_null(2)?,
        service: row.text_or_null(3)?,
        channel: row.text(4)?,
        request: row.text(5)?,
        remote: row.text_or_null(6)?,
        withdrawn: row.flag(7)?,
        reached: row.time_or_null(8)?,
        created: row.time(9)?,
    })
}

/// What was copied for open referrals, by its key at the source's server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Type and id there.
    pub key: Key,
    /// The id of the patient there that a referral with it is about.
    pub patient: Option<String>,
}

/// What one round of polling asks for by its ids, at most (the rest is compared once a day); what a new service may claim.
const A_ROUND: i64 = 2_000;

/// Whether the ServiceRequest of this id is more than routine, as SQL; `$2` is [`priority`].
fn urgent(request: &str) -> String {
    format!(
        "exists (select 1 from resource q join search_index s on s.resource = q.number where q.type = 'ServiceRequest'
         and q.id = {request} and s.parameter = $2 and s.value in ('urgent', 'asap', 'stat'))"
    )
}

fn priority() -> i64 {
    number(ResourceType::SERVICE_REQUEST, "priority")
}

impl Tx {
    /// Stores a new referral.
    pub async fn insert_referral(&mut self, referral: &Referral) -> Result<(), Error> {
        let one = referral.clone();
        let row = args![
            one.task,
            one.source,
            one.focus,
            one.performer,
            one.service,
            one.kept_at,
            one.request,
            one.patient,
            one.fetched,
            one.held,
            one.held_why,
            one.closing,
            one.informed_at,
            one.informed_how,
            one.created,
        ];
        self.met.referrals.insert(referral.task.clone(), referral.clone());
        self.met.relays.insert(referral.task.clone(), Vec::new());
        self.insert(REFERRALS, vec![row]).await
    }

    /// Stores what changed of a referral.
    pub async fn update_referral(&mut self, referral: &Referral) -> Result<(), Error> {
        let one = referral.clone();
        self.met.referrals.insert(referral.task.clone(), referral.clone());
        let values = vec![
            ("focus", one.focus.into()),
            ("performer", one.performer.into()),
            ("service", one.service.into()),
            ("request", one.request.into()),
            ("patient", one.patient.into()),
            ("fetched", one.fetched.into()),
            ("held", one.held.into()),
            ("held_why", one.held_why.into()),
            ("closing", one.closing.into()),
            ("informed_at", one.informed_at.into()),
            ("informed_how", one.informed_how.into()),
        ];
        self.set(REFERRALS, args![one.task], values).await
    }

    /// The referral of a source's Task, locked for this transaction where several gateways may write.
    pub async fn referral(&mut self, task: &str) -> Result<Option<Referral>, Error> {
        if let Some(referral) = self.met.referrals.get(task) {
            return Ok(Some(referral.clone()));
        }
        let text = format!("select {REFERRAL} from referral where task = $1{}", self.for_update());
        let referral = self.one(text, args![task]).await?.as_ref().map(referral_of).transpose()?;
        if self.is_writing() {
            self.met.referrals.extend(referral.clone().map(|referral| (referral.task.clone(), referral)));
        }
        Ok(referral)
    }

    /// The source's referrals with this focus, newest first.
    pub async fn referrals_by_focus(&mut self, source: &str, focus: &str) -> Result<Vec<Referral>, Error> {
        let text = format!("select {REFERRAL} from referral where source = $1 and focus = $2 order by created desc");
        self.all(text, args![source, focus]).await?.iter().map(referral_of).collect()
    }

    /// The referrals made from a ServiceRequest here.
    pub async fn referrals_by_request(&mut self, request: &str) -> Result<Vec<Referral>, Error> {
        let text = format!("select {REFERRAL} from referral where request = $1 order by created");
        self.all(text, args![request]).await?.iter().map(referral_of).collect()
    }

    /// Those of these Tasks that are ended referrals of this source it is not known to know about.
    pub async fn uninformed(&mut self, source: &str, tasks: &[String]) -> Result<Vec<Referral>, Error> {
        let mut args = args![source];
        if tasks.is_empty() {
            return Ok(Vec::new());
        }
        let marks = marks(tasks, &mut args);
        let text = format!(
            "select {REFERRAL} from referral where source = $1 and closing is not null and informed_at is null
             and task in ({})",
            marks
        );
        self.all(text, args).await?.iter().map(referral_of).collect()
    }

    /// Stores a new relay.
    pub async fn insert_relay(&mut self, relay: &Relay) -> Result<(), Error> {
        let one = relay.clone();
        let row = args![
            one.task,
            one.referral,
            one.partner,
            one.service,
            one.channel,
            one.request,
            one.remote,
            one.withdrawn,
            one.reached,
            one.created,
        ];
        self.met.relay(relay);
        self.insert(RELAYS, vec![row]).await
    }

    /// Stores what changed of a relay.
    pub async fn update_relay(&mut self, relay: &Relay) -> Result<(), Error> {
        let one = relay.clone();
        self.met.relay(relay);
        let values = vec![
            ("partner", one.partner.into()),
            ("service", one.service.into()),
            ("channel", one.channel.into()),
            ("remote", one.remote.into()),
            ("withdrawn", one.withdrawn.into()),
            ("reached", one.reached.into()),
        ];
        self.set(RELAYS, args![one.task], values).await
    }

    /// The relay of one of our Tasks.
    pub async fn relay(&mut self, task: &str) -> Result<Option<Relay>, Error> {
        let text = format!("select {RELAY} from relay where task = $1");
        self.one(text, args![task]).await?.as_ref().map(relay_of).transpose()
    }

    /// The relays that may still be claimed, oldest first.
    pub async fn unclaimed(&mut self) -> Result<Vec<Relay>, Error> {
        let text = format!(
            "select {RELAY} from relay where partner is null and channel = 'open' and exists
             (select 1 from referral r where r.task = relay.referral and r.closing is null) order by created limit $1"
        );
        self.all(text, args![A_ROUND]).await?.iter().map(relay_of).collect()
    }

    /// The relays of a referral, oldest first.
    pub async fn relays(&mut self, referral: &str) -> Result<Vec<Relay>, Error> {
        if let Some(relays) = self.met.relays.get(referral) {
            return Ok(relays.clone());
        }
        let text = format!("select {RELAY} from relay where referral = $1 order by created, task");
        let relays: Vec<Relay> =
            self.all(text, args![referral]).await?.iter().map(relay_of).collect::<Result<_, Error>>()?;
        // Whoever changes one has its referral's row.
        if self.met.referrals.contains_key(referral) {
            self.met.relays.insert(referral.to_string(), relays.clone());
        }
        Ok(relays)
    }

    /// The relay whose ServiceRequest this is.
    pub async fn relay_by_request(&mut self, request: &str) -> Result<Option<Relay>, Error> {
        let text = format!("select {RELAY} from relay where request = $1 order by created desc limit 1");
        self.one(text, args![request]).await?.as_ref().map(relay_of).transpose()
    }

    /// The copies that a source's open referrals rest on: what has to stay fresh (G-020). What they can't do without comes
    /// first, for a round asks for so many.
    pub async fn open_copies(&mut self, source: &str, gateway: &str) -> Result<Vec<Copied>, Error> {
        let text = "select l.origin, min(p.origin) from referral r
             join resource_grant g on g.task = r.task and g.partner = $2
             join link l on l.type = g.type and l.id = g.id and l.partner = r.source
             left join link p on p.type = 'Patient' and p.id = substr(r.patient, 9) and p.partner = r.source
             where r.source = $1 and r.closing is null and l.type <> 'Task' group by l.type, l.origin order by
             case l.type when 'ServiceRequest' then 0 when 'Consent' then 1 when 'Patient' then 2 else 3 end,
             l.type, l.origin limit $3";
        let rows = self.all(text, args![source, gateway, A_ROUND]).await?;
        let mut copies = Vec::with_capacity(rows.len());
        for row in &rows {
            let (origin, patient) = (row.text(0)?, row.text_or_null(1)?);
            let patient = patient.as_deref().and_then(split_absolute).map(|(_, key)| key.id);
            copies.extend(split_absolute(&origin).map(|(_, key)| Copied { key, patient }));
        }
        Ok(copies)
    }

    /// How many open referrals a partner's server has a part in, as source or as target, and how many of them are urgent.
    pub async fn open_at(&mut self, partner: &str) -> Result<(i64, i64), Error> {
        let text = format!(
            "select count(*), coalesce(sum(urgent), 0) from (
             select case when {} then 1 else 0 end as urgent from (
             select request from referral where source = $1 and closing is null
             union all
             select t.request from relay t join referral r on r.task = t.referral
                 where t.partner = $1 and t.channel = 'fhir' and r.closing is null) as o limit 1000) as one",
            urgent("o.request")
        );
        let row = self.one(text, args![partner, priority()]).await?;
        row.map_or(Ok((0, 0)), |row| Ok((row.int(0)?, row.int(1)?)))
    }

    /// Whether this ServiceRequest is more than routine.
    pub async fn is_urgent(&mut self, request: &str) -> Result<bool, Error> {
        let text = format!("select 1 where {}", urgent("$1"));
        Ok(self.one(text, args![request, priority()]).await?.is_some())
    }

    /// The first of what referrals share with a partner's server, behind `after`: the URLs of the Tasks that it keeps for
    /// us and of those that we gave it, of open referrals and of those that ended since; the URLs of what was copied for
    /// open ones, or, where `copies` says no, the ids of these referrals, for what was copied has to be read whole; and,
    /// where `outcomes` says so, our requests (`ServiceRequest/id`) that were fulfilled there since.
    pub async fn shared_with(
        &mut self,
        (partner, gateway): (&str, &str),
        (copies, outcomes): (bool, bool),
        since: Timestamp,
        after: Option<&str>,
        most: usize,
    ) -> Result<Vec<String>, Error> {
        let text = "select one from (
                 select r.kept_at as one from referral r where r.source = $1 and r.kept_at is not null
                 and (r.closing is null or r.informed_at is null or r.informed_at >= $7)
             union select t.remote from relay t join referral r on r.task = t.referral
                 where t.partner = $1 and t.remote is not null
                 and (r.closing is null or r.informed_at is null or r.informed_at >= $7)
             union select l.origin from referral r
                 join resource_grant g on g.task = r.task and g.partner = $2
                 join link l on l.type = g.type and l.id = g.id and l.partner = r.source
                 where r.source = $1 and r.closing is null and l.type <> 'Task' and $3 = 1
             union select task from referral where source = $1 and closing is null and $3 = 0
             union select 'ServiceRequest/' || t.request from relay t
                 join evidence e on e.referral = t.referral and e.task = t.task
                 where t.partner = $1 and t.remote is not null and e.what = 'completed' and e.at >= $7 and $4 = 1
             ) as shared where one > $5 order by one limit $6";
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let args = args![partner, gateway, copies, outcomes, after.unwrap_or(""), most, since];
        self.all(text, args).await?.iter().map(|row| row.text(0)).collect()
    }

    /// The ids at a target's server of the Tasks there that belong to open referrals.
    pub async fn open_remotes(&mut self, partner: &str) -> Result<Vec<String>, Error> {
        let text = "select t.remote from relay t join referral r on r.task = t.referral
             where t.partner = $1 and t.remote is not null and r.closing is null order by t.remote limit $2";
        let rows = self.all(text, args![partner, A_ROUND]).await?;
        let urls: Result<Vec<String>, Error> = rows.iter().map(|row| row.text(0)).collect();
        Ok(urls?.iter().filter_map(|url| split_absolute(url)).map(|(_, key)| key.id).collect())
    }

    /// The open referrals of a source that rest on this copy.
    pub async fn open_referrals_with(&mut self, source: &str, copy: &Key, gateway: &str) -> Result<Vec<String>, Error> {
        let text = "select distinct r.task from resource_grant g join referral r on r.task = g.task
             where g.partner = $2 and g.type = $3 and g.id = $4 and r.source = $1 and r.closing is null order by r.task";
        let rows = self.all(text, args![source, gateway, copy.kind.name(), &copy.id]).await?;
        rows.iter().map(|row| row.text(0)).collect()
    }
}
