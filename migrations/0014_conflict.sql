-- Where a partner's server and we say different things, and no rule decides: both versions, for a person.
create table conflict (
    task     text   not null,              -- the Task here
    what     text   not null,              -- status, gone, refused, unread
    referral text   not null,
    partner  text   not null,
    version  bigint not null,              -- ours, when it was found
    theirs   text,                         -- theirs: the resource as it stood there; none where it has gone
    why      text   not null,              -- in words; never health data
    found_at bigint not null,
    ended_at bigint,                       -- both agree again, or a person has settled it
    ended_by text,
    primary key (task, what)
);
create index conflict_referral on conflict (referral);
create index conflict_open on conflict (found_at) where ended_at is null;
