-- Whether a partner's server finds what became of our requests, though its Task does not name it.
alter table peer add column outcomes bigint not null default 0;
-- What may still be claimed, for a house that begins to offer it.
create index relay_unclaimed on relay (created) where partner is null;
