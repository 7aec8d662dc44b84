-- A pass over all that is open at a partner's server goes on where its last part stopped; null: the next part is the first.
alter table partner add column reconciled text;
