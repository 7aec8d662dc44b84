//! Sockets: what a Subscription is bound to, and the tokens to bind with.
//!
//! Only the gateway that holds a socket can send over it, so the delivery of a bound Subscription is that gateway's alone
//! to claim until the binding ends; a gateway that has died stands in nobody's way for longer.

use crate::error::Error;
use crate::store::Tx;
use crate::time::Timestamp;

/// Most tokens of one partner that wait to be used; the oldest give way.
const WAITING: i64 = 100;

/// What a binding token is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// Whose it is.
    pub partner: String,
    /// The Subscriptions it binds.
    pub subscriptions: Vec<String>,
    /// Until when.
    pub till: Timestamp,
}

impl Tx {
    /// Remembers a token by its hash. Those that have expired are forgotten.
    pub async fn add_binding_token(&mut self, hash: &str, binding: &Binding) -> Result<(), Error> {
        let now = self.stamp();
        self.run("delete from binding_token where expires_at <= $1", args![now]).await?;
        let ids = binding.subscriptions.join(" ");
        self.run(
            "insert into binding_token (hash, partner, subscriptions, expires_at) values ($1, $2, $3, $4)",
            args![hash, &binding.partner, ids, binding.till],
        )
        .await?;
        self.run(
            "delete from binding_token where partner = $1 and hash not in
             (select hash from binding_token where partner = $1 order by expires_at desc, hash limit $2)",
            args![&binding.partner, WAITING],
        )
        .await?;
        Ok(())
    }

    /// Uses a token up; none if there is none, or it has expired.
    pub async fn use_binding_token(&mut self, hash: &str) -> Result<Option<Binding>, Error> {
        let now = self.stamp();
        let text = "delete from binding_token where hash = $1 and expires_at > $2
             returning partner, subscriptions, expires_at";
        let Some(row) = self.one(text, args![hash, now]).await? else { return Ok(None) };
        let subscriptions = row.text(1)?.split(' ').map(str::to_string).collect();
        Ok(Some(Binding { partner: row.text(0)?, subscriptions, till: row.time(2)? }))
    }

    /// A Subscription is bound to this socket of this gateway from now on, instead of any other.
    pub async fn bind(&mut self, id: &str, socket: &str, gateway: &str, till: Timestamp) -> Result<(), Error> {
        self.run("update subscription set socket = $1 where id = $2", args![socket, id]).await?;
        self.keep_for(id, gateway, till).await
    }

    /// A Subscription is not bound to this socket any more. False if it was not.
    pub async fn unbind(&mut self, id: &str, socket: &str) -> Result<bool, Error> {
        let text = "update subscription set socket = '' where id = $1 and socket = $2";
        let was_bound = self.run(text, args![id, socket]).await? > 0;
        if was_bound {
            self.keep_for_nobody(id).await?;
        }
        Ok(was_bound)
    }

    /// Any gateway may send what this Subscription is owed.
    pub async fn keep_for_nobody(&mut self, id: &str) -> Result<(), Error> {
        self.owes = true;
        self.keep_for(id, "", Timestamp(0)).await
    }

    async fn keep_for(&mut self, id: &str, gateway: &str, till: Timestamp) -> Result<(), Error> {
        let text = "update delivery set gateway = $1, gateway_till = $2 where kind = 'notify' and subject = $3";
        self.run(text, args![gateway, till, id]).await?;
        Ok(())
    }

    /// The Subscriptions that are bound to this socket, and not off.
    pub async fn bound_to(&mut self, socket: &str) -> Result<Vec<String>, Error> {
        let text = "select id from subscription where socket = $1 and socket > '' and status <> 'off'";
        self.all(text, args![socket]).await?.iter().map(|row| row.text(0)).collect()
    }
}
