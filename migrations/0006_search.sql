-- Search: what tokens say to people, the parties' open Tasks as one range, and which generation of the index is stored.

alter table search_index add column text text not null default '';  -- of tokens: display and text, folded

-- A party's Tasks of one status, in the order of pages; `system` carries the status there.
create index search_index_party on search_index (type, parameter, value, system, created, id)
    where created is not null and system <> '';

create table search_generation (            -- one row: which rules the stored index rows were made by
    id         bigint not null primary key,
    generation bigint not null
);
