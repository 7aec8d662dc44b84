//! Choosing among the services that cover a need: those with room first, then those that say nothing, want to assess,
//! or have a waiting list; those that are full not at all (G-094). Leaves out area, hours and eligibility, which come
//! with the directory.

/// A service that covers the need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The partner that runs it.
    pub partner: String,
    /// The HealthcareService's id.
    pub service: String,
    /// The guide's capacity code, if it says one.
    pub capacity: Option<String>,
}

impl Offer {
    /// Smaller is better; `None` when it takes nobody.
    fn rank(&self) -> Option<u8> {
        match self.capacity.as_deref() {
            Some("capacity") => Some(0),
            None => Some(1),
            Some("additional-assessment-required") => Some(2),
            Some("waitlist") => Some(3),
            Some("no-capacity") => None,
            // An extensible binding: a code we don't know is no reason to leave somebody out.
            Some(_) => Some(2),
        }
    }
}

/// The offers that can be asked, best first, one per partner; partners already asked are left out. Equal offers are
/// ordered by id, so that the choice can be repeated.
pub fn candidates(offers: &[Offer], asked: &[String]) -> Vec<Offer> {
    let mut able: Vec<(u8, &Offer)> = offers
        .iter()
        .filter(|offer| !asked.contains(&offer.partner))
        .filter_map(|offer| Some((offer.rank()?, offer)))
        .collect();
    able.sort_by(|(rank, offer), (other_rank, other)| (rank, &offer.service).cmp(&(other_rank, &other.service)));
    let mut chosen: Vec<Offer> = Vec::new();
    for (_, offer) in able {
        if !chosen.iter().any(|one| one.partner == offer.partner) {
            chosen.push(offer.clone());
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(partner: &str, service: &str, capacity: Option<&str>) -> Offer {
        Offer { partner: partner.into(), service: service.into(), capacity: capacity.map(str::to_string) }
    }

    #[test]
    fn room_comes_first_and_the_full_are_left_out() {
        let offers = [
            offer("a", "1", Some("waitlist")),
            offer("b", "2", Some("no-capacity")),
            offer("c", "3", None),
            offer("d", "4", Some("capacity")),
            offer("a", "5", Some("additional-assessment-required")),
        ];
        let order: Vec<String> = candidates(&offers, &[]).into_iter().map(|offer| offer.service).collect();
        assert_eq!(order, ["4", "3", "5"]);
        assert_eq!(candidates(&offers, &["d".into(), "c".into()])[0].partner, "a");
    }
}
