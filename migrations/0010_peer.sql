-- What a partner's server offers, as it was last found out.
create table peer (
    partner  text   not null primary key references partner (id),
    known_at bigint not null,
    batch    bigint not null,              -- takes batches
    push     text   not null,              -- topic, unsaid, none: what Subscriptions it takes
    source   text   not null,              -- how the Tasks it keeps for us are asked for: plain, coded, whole, by-id
    target   text   not null,              -- how the Tasks we gave it are asked for
    copies   bigint not null,              -- answers searches for what changed of what we hold copies of
    findings text   not null               -- JSON, for people: verdict and text of each; never health data
);
