-- People who sign in: accounts of our own, their sessions, and how often somebody tried in vain.

create table account (
    name     text   not null primary key,   -- what is typed to sign in, in lower case
    role     text   not null,               -- coordinator, staff, administrator, auditor
    partner  text   not null default '',    -- whose staff
    password text   not null,               -- its Argon2id hash
    secret   text   not null,               -- what one-time codes are made of, sealed
    step     bigint not null default 0,     -- the last step whose code was used
    recovery text   not null default ''     -- SHA-256 of the recovery codes that are left, parted by spaces
);

create table session (
    hash       text   not null primary key, -- SHA-256 of what the cookie holds
    subject    text   not null,             -- who: an account's name, or issuer|sub
    name       text   not null,             -- what the person is called
    role       text   not null,
    partner    text   not null default '',
    started_at bigint not null,
    seen_at    bigint not null,
    expires_at bigint not null
);
create index session_subject on session (subject, started_at);
create index session_expires on session (expires_at);

create table sign_in_failure (
    who         text   not null primary key, -- SHA-256 of a name or an address, whether it is known or not
    failures    bigint not null,
    at          bigint not null,
    locked_till bigint not null default 0
);
create index sign_in_failure_at on sign_in_failure (at);

alter table audit add column person text;    -- who it was, of a partner's or our own people
