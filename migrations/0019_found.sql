-- Only what is looked up by its value stands in that index: no date, no text, no code that half of all resources have. The
-- value comes first: what refers to one resource, from whatever type, stands together, and a change touches fewer pages.

alter table search_index add column found bigint not null default 1;
update search_index set found = 0 where value = '' or parameter in ('_profile', 'intent', 'priority', 'gender', 'active');
drop index search_index_value;
create index search_index_value on search_index (value, type, parameter, updated, id) where found = 1;
