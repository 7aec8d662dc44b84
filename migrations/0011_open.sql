-- What is open at a partner is asked with every round of polling.
create index referral_open on referral (source) where closing is null;
create index relay_partner on relay (partner, referral);
