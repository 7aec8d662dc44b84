//! Access tokens: the keys that sign them, the assertions that were used, the tokens that were taken back.
//!
//! Shared by all gateways on one database, and kept across a restart: a used assertion stays used.

use crate::error::Error;
use crate::jwt::Secret;
use crate::store::Tx;
use crate::time::Timestamp;

impl Tx {
    /// The keys of access tokens, newest first, each with the time it was made.
    pub async fn signing_keys(&mut self) -> Result<Vec<(Secret, Timestamp)>, Error> {
        let rows = self.all("select id, secret, made_at from signing_key order by made_at desc, id", args![]).await?;
        rows.iter().map(|row| Ok((Secret::new(row.text(0)?, &row.text(1)?), row.time(2)?))).collect()
    }

    /// Adds a key and forgets those made before a time.
    pub async fn add_signing_key(&mut self, kid: &str, secret: &str, oldest: Timestamp) -> Result<(), Error> {
        let now = self.stamp();
        self.run("delete from signing_key where made_at < $1", args![oldest]).await?;
        self.run("insert into signing_key (id, secret, made_at) values ($1, $2, $3)", args![kid, secret, now]).await?;
        Ok(())
    }

    /// Uses an assertion; false when it has been used. Those that have expired are forgotten.
    pub async fn use_assertion(&mut self, client: &str, jti: &str, expires: Timestamp) -> Result<bool, Error> {
        let now = self.stamp();
        self.run("delete from assertion where expires_at < $1", args![now]).await?;
        let used = "insert into assertion (client, jti, expires_at) values ($1, $2, $3) on conflict do nothing";
        Ok(self.run(used, args![client, jti, expires]).await? == 1)
    }

    /// Takes a token back. Those that have expired anyway are forgotten.
    pub async fn revoke_token(&mut self, jti: &str, expires: Timestamp) -> Result<(), Error> {
        let now = self.stamp();
        self.run("delete from revoked_token where expires_at < $1", args![now]).await?;
        let taken = "insert into revoked_token (jti, expires_at) values ($1, $2) on conflict do nothing";
        self.run(taken, args![jti, expires]).await?;
        Ok(())
    }

    /// The tokens that were taken back and have not expired.
    pub async fn revoked_tokens(&mut self, now: Timestamp) -> Result<Vec<String>, Error> {
        let rows = self.all("select jti from revoked_token where expires_at >= $1", args![now]).await?;
        rows.iter().map(|row| row.text(0)).collect()
    }
}
