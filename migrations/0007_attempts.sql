-- Tries are forgotten by their age.

create index attempt_at on attempt (at);
