-- The part of JIRA's schema that this example reads and writes, as JIRA 9 has it.
CREATE TABLE propertyentry (id numeric(18) PRIMARY KEY, entity_name varchar(255), entity_id numeric(18),
                            property_key varchar(255), propertytype numeric(9));
CREATE TABLE propertystring (id numeric(18) PRIMARY KEY, propertyvalue text);
CREATE TABLE project (id numeric(18) PRIMARY KEY, pname varchar(255), pkey varchar(255), pcounter numeric(18));
CREATE TABLE jiraissue (id numeric(18) PRIMARY KEY, project numeric(18), issuenum numeric(18), summary varchar(255),
                        created timestamptz DEFAULT now());
CREATE TABLE fileattachment (id numeric(18) PRIMARY KEY, issueid numeric(18), mimetype varchar(255),
                             filename varchar(255), created timestamptz DEFAULT now(), filesize numeric(18));
CREATE TABLE mailserver (id numeric(18) PRIMARY KEY, name varchar(255), mailfrom varchar(255), servername varchar(255),
                         smtp_port varchar(60), mailusername varchar(255), mailpassword varchar(255));
INSERT INTO propertyentry VALUES (10100, 'jira.properties', 1, 'jira.baseurl', 5);
INSERT INTO propertystring VALUES (10100, 'https://jira.example');
INSERT INTO project VALUES (10000, 'Grove', 'GRO', 0);
INSERT INTO mailserver VALUES (10000, 'out', 'jira@example', 'smtp.example', '25', 'jira', 'mail-secret');
