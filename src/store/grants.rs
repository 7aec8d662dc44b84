//! Grants: which partner may see which resource, since when, until when, and why (design D11).
//!
//! Directory types need none. A viewer is one or more grantees: a coordinator reads as its own partner and as the
//! gateway's organization. Ended grants stay on record.

use std::collections::BTreeSet;

use crate::error::Error;
use crate::fhir::Key;
use crate::store::later::Shape;
use crate::store::{Arg, Tx};

/// Who looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Viewer {
    /// Sees everything.
    Operator,
    /// Sees what one of these grantees was granted, and the directory.
    Grantees(Vec<String>),
}

/// Why a grant was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The partner created it.
    Author,
    /// A party to the Task: the Task, its focus, for, requester, output and Consent; lasts as long as the Task shows.
    Party,
    /// What else the referral refers to; ends when the Task ends.
    Context,
    /// May claim this open Task; ends when somebody has.
    Claim,
}

impl Reason {
    fn code(self) -> &'static str {
        match self {
            Reason::Author => "author",
            Reason::Party => "party",
            Reason::Context => "context",
            Reason::Claim => "claim",
        }
    }
}

/// `and exists (…)` for a query over `resource r`, with its arguments appended; nothing for an operator.
pub(super) fn visible(viewer: &Viewer, directory: bool, args: &mut Vec<Arg>) -> String {
    granted("r", viewer, directory, " and g.ended is null", args)
}

/// The same for a table of resources under another name.
pub(super) fn visible_as(name: &str, viewer: &Viewer, directory: bool, args: &mut Vec<Arg>) -> String {
    granted(name, viewer, directory, " and g.ended is null", args)
}

/// As [`visible`], but of a `resource_version v` what was visible once will do: what was made before the grant ended.
pub(super) fn once_visible(viewer: &Viewer, directory: bool, args: &mut Vec<Arg>) -> String {
    granted("r", viewer, directory, " and (g.ended is null or v.updated < g.ended)", args)
}

/// As [`visible`], but what was visible at any time will do.
pub(super) fn ever_visible(viewer: &Viewer, directory: bool, args: &mut Vec<Arg>) -> String {
    granted("r", viewer, directory, "", args)
}

fn granted(name: &str, viewer: &Viewer, directory: bool, when: &str, args: &mut Vec<Arg>) -> String {
    match viewer {
        Viewer::Operator => String::new(),
        Viewer::Grantees(_) if directory => String::new(),
        Viewer::Grantees(grantees) => {
            let marks = marks(grantees, args);
            format!(
                " and exists (select 1 from resource_grant g where g.type = {name}.type and g.id = {name}.id
                 and g.partner in ({marks}){when})"
            )
        }
    }
}

/// Placeholders for a list, its values appended to the arguments.
pub(super) fn marks(list: &[String], args: &mut Vec<Arg>) -> String {
    if list.is_empty() {
        return "null".to_string(); // `in ()` is no SQL to PostgreSQL
    }
    let marks: Vec<String> = list
        .iter()
        .map(|item| {
            args.push(item.into());
            format!("${}", args.len())
        })
        .collect();
    marks.join(", ")
}

/// What a partner has is not narrowed.
const GRANT: Shape = Shape {
    table: "resource_grant",
    columns: &["partner", "type", "id", "task", "reason", "since"],
    key: 4,
    or: " on conflict (partner, type, id, task) do update set ended = null,
         reason = case when resource_grant.ended is null and resource_grant.reason in ('author', 'party')
         then resource_grant.reason else excluded.reason end",
};

impl Tx {
    /// Grants the resources to a partner, with a Task. What it has is not narrowed: `party` stays `party`, until it ends.
    pub async fn grant(&mut self, partner: &str, keys: &[Key], task: &str, reason: Reason) -> Result<(), Error> {
        let stamp = self.stamp();
        // In order, so that two transactions lock alike; and each once, for PostgreSQL refuses to upsert a row twice.
        let keys: BTreeSet<&Key> = keys.iter().collect();
        let keys: Vec<&Key> = keys.into_iter().collect();
        for key in &keys {
            self.marks.changed_for(partner, key.kind, stamp);
        }
        let rows = keys
            .into_iter()
            .map(|key| {
                self.met.granted(partner, key);
                args![partner, key.kind.name(), &key.id, task, reason.code(), stamp]
            })
            .collect();
        self.insert(GRANT, rows).await
    }

    /// Ends a partner's grants of a Task for one reason, or (none given) all of them.
    pub async fn end_grants(&mut self, partner: &str, task: &str, reason: Option<Reason>) -> Result<(), Error> {
        let stamp = self.stamp();
        self.met.narrowed();
        let mut args = args![stamp, partner, task];
        let mut text =
            String::from("update resource_grant set ended = $1 where partner = $2 and task = $3 and ended is null");
        if let Some(reason) = reason {
            args.push(reason.code().into());
            text.push_str(" and reason = $4");
        }
        self.run(text, args).await?;
        Ok(())
    }

    /// A partner that loses sight of a Task for want of consent: its Subscriptions still count this transaction's change of it
    /// as an event, of which they are told the number alone.
    pub fn parts_from(&mut self, partner: &str, task: &Key) {
        self.met.parts(partner, task);
    }

    /// Who may see a resource now.
    pub async fn grantees(&mut self, key: &Key) -> Result<Vec<String>, Error> {
        let rows = self
            .all(
                "select distinct partner from resource_grant where type = $1 and id = $2 and ended is null order by partner",
                args![key.kind.name(), &key.id],
            )
            .await?;
        rows.iter().map(|row| row.text(0)).collect()
    }

    /// The grantees of a Task that hold a grant of this reason.
    pub async fn grantees_for(&mut self, task: &str, reason: Reason) -> Result<Vec<String>, Error> {
        let rows = self
            .all(
                "select distinct partner from resource_grant where task = $1 and reason = $2 and ended is null order by partner",
                args![task, reason.code()],
            )
            .await?;
        rows.iter().map(|row| row.text(0)).collect()
    }

    /// Whether a viewer may see a resource.
    pub async fn may_see(&mut self, viewer: &Viewer, key: &Key) -> Result<bool, Error> {
        let Viewer::Grantees(grantees) = viewer else { return Ok(true) };
        if key.kind.is_directory() {
            return Ok(true);
        }
        if self.met.may_see(viewer, key) {
            return Ok(true);
        }
        let mut args = args![key.kind.name(), &key.id];
        let marks = marks(grantees, &mut args);
        let text = format!(
            "select partner from resource_grant where type = $1 and id = $2 and partner in ({marks}) and ended is null limit 1"
        );
        // Those that are outstanding were met.
        let row = self.ask_now(text, args).await?.into_iter().next();
        if let (Some(row), true) = (&row, self.is_writing()) {
            self.met.granted(&row.text(0)?, key);
        }
        Ok(row.is_some())
    }

    /// Whether a viewer might once have claimed this Task and somebody else was faster.
    pub async fn lost_the_claim(&mut self, viewer: &Viewer, task: &Key) -> Result<bool, Error> {
        let Viewer::Grantees(grantees) = viewer else { return Ok(false) };
        let mut args = args![task.kind.name(), &task.id];
        let marks = marks(grantees, &mut args);
        let text = format!(
            "select 1 from resource_grant where type = $1 and id = $2 and partner in ({marks})
             and reason = 'claim' and ended is not null limit 1"
        );
        Ok(self.one(text, args).await?.is_some())
    }
}
