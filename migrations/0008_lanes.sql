-- Endpoints that fail are left in peace for a while; a key of the gateway's own.

create table lane (                         -- an endpoint's server, as far as it has failed
    name       text   not null primary key,
    failures   bigint not null,             -- in a row
    rests_till bigint not null              -- not tried before
);
alter table subscription add column lane text not null default '';

create table secret (                       -- made by the gateway where the configuration gives none
    name  text not null primary key,
    value text not null
);
