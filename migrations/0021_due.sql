-- What is due is looked for past the backlog of lanes that are full: their rows are passed over in the index alone.
drop index delivery_due;
create index delivery_due on delivery (due_at, lane, partner) where state = 'due';
