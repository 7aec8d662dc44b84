-- The spine: resources with history, search index, links, grants, referrals, deliveries, subscriptions, audit.
-- Portable: text and bigint only, time as microseconds since 1970 UTC, flags as 0 and 1.

create table partner (
    id          text   not null primary key,
    name        text   not null,
    active      bigint not null,
    cursor      text,                       -- following: the partner's own timestamp we have read up to
    heard_at    bigint,                     -- last time it answered a poll
    failures    bigint not null default 0,  -- polls failed in a row
    failing     text                        -- what the last failure was; never health data
);

create table resource (                     -- the current version of each resource
    type     text   not null,
    id       text   not null,
    version  bigint not null,
    updated  bigint not null,
    created  bigint not null,
    author   text   not null,               -- the partner that created it, or the gateway's organization
    deleted  bigint not null,
    primary key (type, id)
);
create index resource_updated on resource (type, updated, id);
create index resource_created on resource (type, created, id);

create table resource_version (
    type     text   not null,
    id       text   not null,
    version  bigint not null,
    updated  bigint not null,
    method   text   not null,               -- POST, PUT, DELETE
    author   text   not null,
    content  text   not null,               -- as sent; empty for a deletion
    primary key (type, id, version)
);

create table search_index (                 -- of a deleted resource: what stood last, for pages that go on from it
    type      text   not null,
    id        text   not null,
    parameter text   not null,
    value     text   not null,
    system    text   not null,
    low       bigint not null,
    high      bigint not null,
    updated   bigint not null,              -- of the resource, for references: a poll by owner and _lastUpdated is one range scan
    created   bigint                        -- of the resource, for references: a page by owner is one range scan
);
create index search_index_resource on search_index (type, id, parameter, value);
create index search_index_value on search_index (type, parameter, value, updated, id);
create index search_index_created on search_index (type, parameter, value, created, id) where created is not null;
create index search_index_date on search_index (type, parameter, low, id) where value = '';

create table link (                         -- a copy's origin (design D2)
    partner  text   not null,
    origin   text   not null,               -- absolute URL at the partner, without version
    type     text   not null,
    id       text   not null,
    etag     text,
    checked  bigint not null,               -- when it was last read there
    primary key (partner, origin)
);
create index link_resource on link (type, id);

create table resource_grant (               -- a partner's right to see one resource (design D11)
    partner  text   not null,
    type     text   not null,
    id       text   not null,
    task     text   not null,               -- the Task it came with; empty for what the partner created
    reason   text   not null,               -- author, party, context, claim
    since    bigint not null,
    ended    bigint,
    primary key (partner, type, id, task)
);
create index resource_grant_resource on resource_grant (type, id);
create index resource_grant_task on resource_grant (task, partner);

create table referral (                     -- a source's Task that we broker
    task         text   not null primary key,
    source       text   not null,
    focus        text   not null,           -- absolute focus as sent, or Type/id: the same referral twice (design D8)
    performer    text,                      -- the partner that was named, if one was
    service      text,                      -- its HealthcareService, if one was named
    kept_at      text,                      -- the Task's URL, if it is kept at the source's server (direct light)
    request      text,                      -- our copy of the ServiceRequest
    patient      text,                      -- Type/id of our copy of the patient
    fetched      bigint not null,
    held         bigint not null,           -- waits for a coordinator
    held_why     text,
    closing      bigint,                    -- the version that ended it
    informed_at  bigint,                    -- when the source was seen to have that version
    informed_how text,
    created      bigint not null
);
create index referral_source on referral (source, focus);
create index referral_request on referral (request);

create table relay (                        -- our Task to one target
    task      text   not null primary key,
    referral  text   not null,
    partner   text,                         -- none while it is open for claiming
    service   text,
    channel   text   not null,              -- fhir, light, open
    request   text   not null,              -- our ServiceRequest
    remote    text,                         -- the Task's URL at the target's server, once it is there
    withdrawn bigint not null,              -- the source called it off; owed to the target
    reached   bigint,                       -- when the target had it
    created   bigint not null
);
create index relay_referral on relay (referral, created);
create index relay_request on relay (request);

create table delivery (                     -- one thing owed; one row per kind and subject
    id          text   not null primary key,
    kind        text   not null,
    subject     text   not null,
    partner     text   not null,
    generation  bigint not null,            -- rises when it is owed again
    due_at      bigint not null,
    attempts    bigint not null,            -- since it last succeeded
    state       text   not null,            -- due, done, exhausted
    lease       text,
    leased_till bigint not null,
    last_error  text,
    created     bigint not null
);
create unique index delivery_subject on delivery (kind, subject);
create index delivery_due on delivery (due_at) where state = 'due';
create index delivery_given_up on delivery (partner) where state = 'exhausted';

create table attempt (
    delivery text   not null,
    at       bigint not null,
    outcome  text   not null,
    detail   text,
    id       text   not null primary key
);
create index attempt_delivery on attempt (delivery, at);

create table subscription (
    id       text   not null primary key,
    partner  text   not null,
    sees     text   not null,               -- whose grants it follows; * for an operator
    topic    text   not null,
    status   text   not null,
    endpoint text   not null,
    resource text   not null,               -- the Subscription as it was sent, secret headers included
    ends     bigint,
    events   bigint not null,               -- the last number given out
    sent     bigint not null,               -- the last number acknowledged
    begun    bigint not null,               -- a handshake has succeeded once: events count from then on
    error    text
);
create index subscription_partner on subscription (partner, topic);

create table event (
    subscription text   not null,
    number       bigint not null,
    at           bigint not null,
    type         text   not null,
    id           text   not null,
    version      bigint not null,
    primary key (subscription, number)
);
create index event_at on event (at);

create table audit (
    id       text   not null primary key,
    at       bigint not null,
    partner  text   not null,
    action   text   not null,               -- read, search, create, update, …
    type     text   not null,
    resource text   not null,
    version  bigint not null,
    request  text   not null,
    detail   text
);
create index audit_resource on audit (type, resource, at);

create table evidence (                     -- how we know what happened to a referral
    id       text   not null primary key,
    referral text   not null,
    task     text   not null,
    at       bigint not null,
    who      text   not null,
    what     text   not null,
    how      text   not null,
    version  bigint not null
);
create index evidence_referral on evidence (referral, at);
