-- Subscriptions in full: found by terms, with sealed headers, timers, replays and pauses; endpoints that fail.

create table subscription_term (            -- by what a change finds the subscriptions that it may concern
    topic        text not null,
    viewer       text not null,             -- whose grants it follows; * sees all
    term         text not null,             -- parameter=value of its most telling filter; empty: none
    subscription text not null,
    primary key (topic, viewer, term, subscription)
);
create index subscription_term_subscription on subscription_term (subscription);
insert into subscription_term select topic, sees, '', id from subscription where status <> 'off';
insert into subscription_term select topic, partner, '', id from subscription where status <> 'off' and sees not in ('*', partner);

alter table subscription add column headers text;                       -- sealed; null: none
alter table subscription add column said bigint;                        -- when something was last sent
alter table subscription add column held bigint not null default 0;     -- an operator holds it: counted, not sent
alter table subscription add column again bigint;                       -- asked for again: from this number on
alter table subscription add column again_to bigint;                    -- up to this one

alter table event add column change text not null default 'update';     -- create, update, delete
