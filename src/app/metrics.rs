//! The numbers that an operator watches, as Prometheus text. Names of partners and counts; nobody's health data.
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::sync::atomic::Ordering::Relaxed;

use super::App;
use super::peers::{Known, Verdict};
use super::visits::Counts;
use crate::error::Error;
use crate::store::Tx;

impl App {
    /// The gateway's numbers, as Prometheus text.
    pub async fn metrics(&self) -> Result<String, Error> {
        let mut tx = self.store().read().await?;
        let (all, ended, informed) = tx.referral_counts().await?;
        let mut out = String::from("# TYPE loopgate_referrals gauge\n");
        for (state, count) in
            [("open", all - ended), ("ended_source_not_informed", ended - informed), ("closed", informed)]
        {
            out.push_str(&format!("loopgate_referrals{{state=\"{state}\"}} {count}\n"));
        }
        out.push_str("# TYPE loopgate_deliveries gauge\n");
        for (kind, state, count) in tx.delivery_counts().await? {
            out.push_str(&format!("loopgate_deliveries{{kind=\"{kind}\",state=\"{state}\"}} {count}\n"));
        }
        out.push_str("# TYPE loopgate_following gauge\n");
        for one in tx.all_subscribed().await? {
            let (partner, side, state) = (one.partner, one.side, one.state);
            out.push_str(&format!("loopgate_following{{partner=\"{partner}\",side=\"{side}\",state=\"{state}\"}} 1\n"));
        }
        let conflicts = tx.conflicts(None).await?.len();
        out.push_str(&format!("# TYPE loopgate_conflicts gauge\nloopgate_conflicts {conflicts}\n"));
        out.push_str(&self.peer_metrics(&mut tx).await?);
        out.push_str(&self.notification_metrics(&mut tx).await?);
        Ok(out)
    }

    /// What is known of partners' servers.
    async fn peer_metrics(&self, tx: &mut Tx) -> Result<String, Error> {
        let mut out = String::from("# TYPE loopgate_partner gauge\n");
        let mut missing = String::from("# TYPE loopgate_partner_missing gauge\n");
        for peer in tx.peers().await? {
            let known = Known::of(&peer);
            let (partner, push, batch) = (&peer.partner, known.push.code(), known.batch);
            out.push_str(&format!("loopgate_partner{{partner=\"{partner}\",push=\"{push}\",batch=\"{batch}\"}} 1\n"));
            let count = known.findings.iter().filter(|finding| finding.verdict == Verdict::Missing).count();
            missing.push_str(&format!("loopgate_partner_missing{{partner=\"{partner}\"}} {count}\n"));
        }
        out.push_str(&missing);
        let mut heard = String::from("# TYPE loopgate_partner_heard_seconds gauge\n");
        out.push_str("# TYPE loopgate_partner_failures gauge\n");
        for (partner, failures, heard_at) in tx.all_following().await? {
            out.push_str(&format!("loopgate_partner_failures{{partner=\"{partner}\"}} {failures}\n"));
            if let Some(at) = heard_at {
                heard.push_str(&format!("loopgate_partner_heard_seconds{{partner=\"{partner}\"}} {}\n", at.seconds()));
            }
        }
        out.push_str(&heard);
        Ok(out)
    }

    /// Subscriptions and their notifications.
    async fn notification_metrics(&self, tx: &mut Tx) -> Result<String, Error> {
        let mut out = String::from("# TYPE loopgate_subscriptions gauge\n");
        let counts = tx.subscription_counts().await?;
        for (status, count, ..) in &counts {
            out.push_str(&format!("loopgate_subscriptions{{status=\"{status}\"}} {count}\n"));
        }
        out.push_str("# TYPE loopgate_events_waiting gauge\n# TYPE loopgate_events_waiting_seconds gauge\n");
        for (status, _, waiting, since) in &counts {
            let seconds = since.map_or(0, |since| self.now().since(since).as_secs());
            out.push_str(&format!("loopgate_events_waiting{{status=\"{status}\"}} {waiting}\n"));
            out.push_str(&format!("loopgate_events_waiting_seconds{{status=\"{status}\"}} {seconds}\n"));
        }
        out.push_str("# TYPE loopgate_sockets gauge\n");
        out.push_str(&format!("loopgate_sockets {}\n", self.0.sockets.open()));
        out.push_str("# TYPE loopgate_notification_attempts_total counter\n");
        let Counts { taken, failed, given_up } = &self.0.counts;
        for (outcome, count) in [("taken", taken), ("failed", failed), ("given_up", given_up)] {
            let count = count.load(Relaxed);
            out.push_str(&format!("loopgate_notification_attempts_total{{outcome=\"{outcome}\"}} {count}\n"));
        }
        Ok(out)
    }
}
