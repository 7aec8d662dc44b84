-- What was seen is sealed: blocks of audit rows in the order of their ids, each with the hash of the one before.

create table audit_seal (
    number bigint not null primary key,         -- from 1, without gaps
    till   text   not null,                     -- the block ends before this id; it begins where the one before ends
    held   bigint not null,                     -- how many rows it holds
    hash   text   not null,
    signed text   not null                      -- which key made the hash; empty: none
);

alter table audit add column outcome bigint not null default 0;   -- 0 done, 4 refused, 8 failed
alter table audit add column token   text;                        -- the access token's jti
alter table audit add column address text;                        -- where the request came from
alter table audit add column query   text;                        -- what was asked for, in a search
