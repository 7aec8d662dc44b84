-- Our Subscriptions at partners' servers: one a side (what it sends us, what we send it).
create table subscribed (
    partner    text   not null references partner (id),
    side       text   not null,                -- source, target
    secret     text   not null,                -- what its notifications must show: opens nothing but a poll of ours
    url        text,                           -- where our Subscription stands; null while it has none
    state      text   not null,                -- wanted, requested, active, silent, error, refused
    last_event bigint,                         -- newest event number heard
    heard_at   bigint,
    checked_at bigint,                         -- when its server last said how the Subscription is
    why        text,                           -- why it is not active; never health data
    primary key (partner, side)
);
