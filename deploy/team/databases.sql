-- The login of the MLflow server and its two databases: runs, and users. Run it as a superuser, with
-- TEAM_DB_PASSWORD in the environment. A second run sets the password again and changes nothing else.
\set ON_ERROR_STOP on
\set password ''
\getenv password TEAM_DB_PASSWORD
select :'password' = '' as is_missing \gset
\if :is_missing
    do $$ begin raise exception 'TEAM_DB_PASSWORD is not set'; end $$;
\endif
select 'create role mlflow login'
where not exists (select from pg_roles where rolname = 'mlflow') \gexec
alter role mlflow password :'password';
select format('create database %I owner mlflow', name)
from unnest(array['mlflow', 'mlflow_auth']) as name
where not exists (select from pg_database where datname = name) \gexec
revoke connect on database mlflow, mlflow_auth from public;
