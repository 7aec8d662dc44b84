//! People who sign in: accounts, sessions, and the tries that failed. Shared by all gateways on one database.
//!
//! Promises that no secret is here in clear: passwords as Argon2id, cookies and recovery codes as SHA-256, what one-time
//! codes are made of as the app has sealed it. What any of it means is the app's (`app::people`).

use crate::error::Error;
use crate::store::{Row, Tx};
use crate::time::Timestamp;

/// Most sessions of one person; the oldest give way.
const MOST_SESSIONS: i64 = 10;

/// An account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// What is typed to sign in.
    pub name: String,
    /// The role's word.
    pub role: String,
    /// Whose staff; else empty.
    pub partner: String,
    /// The password's hash.
    pub password: String,
    /// What one-time codes are made of, sealed.
    pub secret: String,
    /// The last step whose code was used.
    pub step: i64,
    /// Hashes of the recovery codes that are left.
    pub recovery: Vec<String>,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// SHA-256 of what the cookie holds.
    pub hash: String,
    /// Who.
    pub subject: String,
    /// What the person is called.
    pub name: String,
    /// The role's word.
    pub role: String,
    /// Whose staff; else empty.
    pub partner: String,
    /// SHA-256 of what the identity provider calls it; else empty.
    pub sid: String,
    /// When it was last used, give or take a minute.
    pub seen_at: Timestamp,
    /// When it ends, used or not.
    pub expires_at: Timestamp,
}

const ACCOUNT: &str = "select name, role, partner, password, secret, step, recovery from account";

fn account(row: &Row) -> Result<Account, Error> {
    Ok(Account {
        name: row.text(0)?,
        role: row.text(1)?,
        partner: row.text(2)?,
        password: row.text(3)?,
        secret: row.text(4)?,
        step: row.int(5)?,
        recovery: row.text(6)?.split_whitespace().map(str::to_string).collect(),
    })
}

const SESSION: &str = "hash, subject, name, role, partner, sid, seen_at, expires_at";

fn session(row: &Row) -> Result<Session, Error> {
    Ok(Session {
        hash: row.text(0)?,
        subject: row.text(1)?,
        name: row.text(2)?,
        role: row.text(3)?,
        partner: row.text(4)?,
        sid: row.text(5)?,
        seen_at: row.time(6)?,
        expires_at: row.time(7)?,
    })
}

impl Tx {
    /// The account of this name.
    pub async fn account(&mut self, name: &str) -> Result<Option<Account>, Error> {
        self.one(format!("{ACCOUNT} where name = $1"), args![name]).await?.as_ref().map(account).transpose()
    }

    /// All accounts, by name.
    pub async fn accounts(&mut self) -> Result<Vec<Account>, Error> {
        self.all(format!("{ACCOUNT} order by name"), args![]).await?.iter().map(account).collect()
    }

    /// Adds an account; false when the name is taken.
    pub async fn add_account(&mut self, new: &Account) -> Result<bool, Error> {
        let text = "insert into account (name, role, partner, password, secret, step, recovery)
             values ($1, $2, $3, $4, $5, $6, $7) on conflict (name) do nothing";
        let Account { name, role, partner, password, secret, step, recovery } = new;
        let recovery = recovery.join(" ");
        Ok(self.run(text, args![name, role, partner, password, secret, *step, recovery]).await? == 1)
    }

    /// Removes an account; false when there is none.
    pub async fn remove_account(&mut self, name: &str) -> Result<bool, Error> {
        Ok(self.run("delete from account where name = $1", args![name]).await? == 1)
    }

    /// Uses the code of a step; false when that or a later one was used.
    pub async fn use_step(&mut self, name: &str, step: i64) -> Result<bool, Error> {
        let text = "update account set step = $1 where name = $2 and step < $1";
        Ok(self.run(text, args![step, name]).await? == 1)
    }

    /// Uses a recovery code up: this is what was left before, and what is after. False when somebody was faster.
    pub async fn use_recovery(&mut self, name: &str, before: &[String], after: &[String]) -> Result<bool, Error> {
        let text = "update account set recovery = $1 where name = $2 and recovery = $3";
        Ok(self.run(text, args![after.join(" "), name, before.join(" ")]).await? == 1)
    }

    /// Adds a session. Those that have ended are forgotten, and the oldest of a person who has too many.
    pub async fn add_session(&mut self, new: &Session) -> Result<(), Error> {
        let now = self.stamp();
        self.run("delete from session where expires_at <= $1", args![now]).await?;
        let Session { hash, subject, name, role, partner, sid, seen_at, expires_at } = new;
        self.run(
            "insert into session (hash, subject, name, role, partner, sid, started_at, seen_at, expires_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            args![hash, subject, name, role, partner, sid, now, *seen_at, *expires_at],
        )
        .await?;
        self.run(
            "delete from session where subject = $1 and hash not in
             (select hash from session where subject = $1 order by started_at desc, hash limit $2)",
            args![subject, MOST_SESSIONS],
        )
        .await?;
        Ok(())
    }

    /// The session of this hash.
    pub async fn session(&mut self, hash: &str) -> Result<Option<Session>, Error> {
        let text = format!("select {SESSION} from session where hash = $1");
        self.one(text, args![hash]).await?.as_ref().map(session).transpose()
    }

    /// A session was used just now.
    pub async fn touch_session(&mut self, hash: &str) -> Result<(), Error> {
        let now = self.stamp();
        self.run("update session set seen_at = $1 where hash = $2", args![now, hash]).await?;
        Ok(())
    }

    /// Ends a session; false when there is none.
    pub async fn end_session(&mut self, hash: &str) -> Result<bool, Error> {
        Ok(self.run("delete from session where hash = $1", args![hash]).await? == 1)
    }

    /// Ends all sessions of a person; how many there were.
    pub async fn end_sessions(&mut self, subject: &str) -> Result<u64, Error> {
        self.run("delete from session where subject = $1", args![subject]).await
    }

    /// Ends what the identity provider calls by this name; those sessions.
    pub async fn end_sessions_called(&mut self, sid: &str) -> Result<Vec<Session>, Error> {
        let text = format!("delete from session where sid = $1 returning {SESSION}");
        self.all(text, args![sid]).await?.iter().map(session).collect()
    }

    /// Ends the sessions of a person: all, or those that the provider calls by this name or had no name for; those sessions.
    pub async fn end_sessions_of(&mut self, subject: &str, sid: Option<&str>) -> Result<Vec<Session>, Error> {
        let only = if sid.is_some() { "and sid in ($2, '')" } else { "and $2 = ''" };
        let text = format!("delete from session where subject = $1 {only} returning {SESSION}");
        self.all(text, args![subject, sid.unwrap_or_default()]).await?.iter().map(session).collect()
    }

    /// Ends those sessions of a person that are not of this role.
    pub async fn end_sessions_of_other_roles(&mut self, subject: &str, role: &str, partner: &str) -> Result<(), Error> {
        let text = "delete from session where subject = $1 and (role <> $2 or partner <> $3)";
        self.run(text, args![subject, role, partner]).await?;
        Ok(())
    }

    /// Remembers a sign-in that goes to the provider; false when too many are under way. Those that took too long are
    /// forgotten.
    pub async fn add_sign_in(
        &mut self,
        hash: &str,
        return_to: &str,
        till: Timestamp,
        most: i64,
    ) -> Result<bool, Error> {
        let now = self.stamp();
        self.run("delete from sign_in where expires_at <= $1", args![now]).await?;
        let row = self.one("select count(*) from sign_in", args![]).await?;
        if row.map_or(Ok(0), |row| row.int(0))? >= most {
            return Ok(false);
        }
        let text = "insert into sign_in (hash, return_to, expires_at) values ($1, $2, $3)";
        self.run(text, args![hash, return_to, till]).await?;
        Ok(true)
    }

    /// Uses a sign-in up: where to afterwards; none if there is none, or it took too long.
    pub async fn use_sign_in(&mut self, hash: &str) -> Result<Option<String>, Error> {
        let now = self.stamp();
        let text = "delete from sign_in where hash = $1 and expires_at > $2 returning return_to";
        self.one(text, args![hash, now]).await?.map(|row| row.text(0)).transpose()
    }

    /// Counts one more failure; how many that are, and until when nothing was to be tried. What has rested since before
    /// this time is forgotten.
    pub async fn count_failure(&mut self, who: &str, forgotten: Timestamp) -> Result<(i64, Timestamp), Error> {
        let now = self.stamp();
        self.run("delete from sign_in_failure where at < $1", args![forgotten]).await?;
        let text = "insert into sign_in_failure (who, failures, at) values ($1, 1, $2)
             on conflict (who) do update set failures = sign_in_failure.failures + 1, at = $2
             returning failures, locked_till";
        let row = self.one(text, args![who, now]).await?.ok_or_else(|| Error::internal("nothing was counted"))?;
        Ok((row.int(0)?, row.time(1)?))
    }

    /// Nothing may be tried until then.
    pub async fn lock_out(&mut self, who: &str, till: Timestamp) -> Result<(), Error> {
        self.run("update sign_in_failure set locked_till = $1 where who = $2", args![till, who]).await?;
        Ok(())
    }

    /// What was counted last was no failure.
    pub async fn uncount_failure(&mut self, who: &str) -> Result<(), Error> {
        self.run("update sign_in_failure set failures = failures - 1, locked_till = 0 where who = $1", args![who])
            .await?;
        Ok(())
    }

    /// Forgets the failures of a name.
    pub async fn forget_failures(&mut self, who: &str) -> Result<(), Error> {
        self.run("delete from sign_in_failure where who = $1", args![who]).await?;
        Ok(())
    }
}
