-- Websockets: which one a Subscription is bound to, which gateway alone may send over it, and the tokens to bind with.

alter table subscription add column socket text;         -- null: another channel; empty: bound to none
create index subscription_socket on subscription (socket) where socket > '';

alter table delivery add column gateway text not null default '';       -- the only one that may send it, and until when
alter table delivery add column gateway_till bigint not null default 0;

create table binding_token (                -- each binds once
    hash          text   not null primary key,      -- SHA-256: whoever reads this table can bind nothing
    partner       text   not null,
    subscriptions text   not null,          -- ids, with a space between them
    expires_at    bigint not null
);
create index binding_token_partner on binding_token (partner, expires_at);
