//! `loopgate partner check`: what a partner's server can do, what the guide demands and is missing, and what we would do
//! instead; before go-live, without a database and without health data. With `--practice` a made-up referral runs round
//! the loop between its test server and a partner of our own in this process.

mod practice;

use std::path::Path;
use std::sync::Arc;

use crate::app::peers::{DiscoverPlan, Known, Verdict};
use crate::config::{Channel, Config, Fhir, Follow, OutboundAuth, Partner, PartnerAddresses, Role, WriteOutcomes};
use crate::delivery::{Hand, Transport};

/// Where to write a line.
pub type Say<'a> = &'a mut (dyn FnMut(&str) + Send);

/// A gateway of no name, to look at servers with.
pub fn bare() -> Result<Config, String> {
    let text = "[gateway]\norganization = { id = \"hub\", name = \"Hub\" }\n[store]\nurl = \"sqlite://hub.db\"\n";
    Config::parse(text, Path::new("")).map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

/// The configured partner of this id or base; a URL that is nobody's is one that we know nothing of yet.
pub fn partner(config: &Config, named: &str) -> Result<Arc<Partner>, String> {
    let named = named.trim_end_matches('/');
    let is = |one: &&Partner| one.id == named || one.fhir.as_ref().is_some_and(|fhir| fhir.base == named);
    if let Some(found) = config.partners.iter().find(is) {
        return match found.fhir {
            Some(_) => Ok(Arc::new(found.clone())),
            None => Err(format!("{named} has no FHIR server (partner.fhir.base)")),
        };
    }
    let private = config.delivery.partner_addresses == PartnerAddresses::AllowPrivateForTestsOnly;
    if !(named.starts_with("https://") || (private && named.starts_with("http://"))) {
        return Err(format!("{named} is neither a partner in the configuration nor an https address"));
    }
    let fhir = Fhir {
        base: named.to_string(),
        follow: Follow::Auto,
        poll_every: std::time::Duration::from_secs(3_600),
        auth: OutboundAuth::None,
        our_reference: format!("{}/Organization/{}", config.base(), config.gateway.id),
        write_outcomes: WriteOutcomes::Reference,
        tls: None,
        timeout: None,
        concurrency: 1,
        requests_per_minute: None,
    };
    Ok(Arc::new(Partner {
        fhir: Some(fhir),
        channel: Some(Channel::Fhir),
        ..Partner::new("new-partner".into(), "New partner".into(), vec![Role::Source, Role::Target])
    }))
}

/// Looks at the partner's server and says what was found. Whether nothing is missing.
pub async fn report(config: &Config, partner: &Arc<Partner>, transport: Arc<dyn Transport>, say: Say<'_>) -> bool {
    let base = partner.fhir.as_ref().map_or("", |fhir| fhir.base.as_str());
    say(&format!("{} ({}) at {base}", partner.name, partner.id));
    let hand = Hand::new(config, partner.clone(), transport);
    let known = match hand.look(&DiscoverPlan::new(config, partner.clone())).await {
        Ok(known) => known,
        Err(why) => {
            say(&line(Verdict::Missing, &format!("its server: {why}")));
            return false;
        }
    };
    for finding in &known.findings {
        say(&line(finding.verdict, &finding.text));
    }
    say(&verdict(&known));
    !is_lacking(&known)
}

/// Runs a made-up referral over the partner's server, in each role it has there. Whether the loop closed.
pub async fn practise(
    config: &Config,
    partner: &Arc<Partner>,
    transport: Arc<dyn Transport>,
    folder: &Path,
    say: Say<'_>,
) -> Result<bool, String> {
    let mut closed = true;
    for role in [Role::Target, Role::Source].into_iter().filter(|role| partner.roles.contains(role)) {
        closed &= practice::run(config, partner, role, transport.clone(), folder, say).await?;
    }
    Ok(closed)
}

fn line(verdict: Verdict, text: &str) -> String {
    format!("  {:<8} {text}", verdict.code())
}

fn is_lacking(known: &Known) -> bool {
    known.findings.iter().any(|finding| finding.verdict == Verdict::Missing)
}

fn verdict(known: &Known) -> String {
    let count = |verdict| known.findings.iter().filter(|finding| finding.verdict == verdict).count();
    match (count(Verdict::Missing), count(Verdict::Instead)) {
        (0, 0) => "Ready: nothing is missing.".into(),
        (0, 1) => "Ready: nothing is missing, 1 thing is done another way.".into(),
        (0, instead) => format!("Ready: nothing is missing, {instead} things are done another way."),
        (1, _) => "Not ready: 1 thing that the guide demands is missing.".into(),
        (missing, _) => format!("Not ready: {missing} things that the guide demands are missing."),
    }
}
