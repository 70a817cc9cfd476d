//! The CRM types through the real binary, against stand-ins that enforce what each service documents: schema, access, limits, answers for
//! each record, tokens that end.

use crate::support::http::Client;
use crate::support::{Daemon, Delivery, Home, Receiver, Reply, eventually};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

/// What a service holds, shared between its script and the test.
type Shared<T> = Arc<Mutex<T>>;

fn answer(status: u16, body: &Value) -> Reply {
    Reply { body: body.to_string(), ..Reply::status(status) }.header("content-type", "application/json")
}

fn form(delivery: &Delivery) -> BTreeMap<String, String> {
    assert!(delivery.header("content-type").starts_with("application/x-www-form-urlencoded"), "{delivery:?}");
    url::form_urlencoded::parse(&delivery.body).into_owned().collect()
}

fn query(delivery: &Delivery) -> BTreeMap<String, String> {
    let query = delivery.path.split_once('?').map_or("", |(_, query)| query);
    url::form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

fn path(delivery: &Delivery) -> &str {
    delivery.path.split('?').next().unwrap()
}

fn base(receiver: &Receiver) -> String {
    format!("http://{}", receiver.address)
}

fn destination(kind: &str, more: &str) -> String {
    format!("[[destination]]\nname = \"crm\"\ntype = \"{kind}\"\n{more}\n")
}

fn dead(home: &Home) -> Vec<Value> {
    let listed = home.ok(&["--json", "queue", "list", "--state", "dead"]);
    listed.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// No test's secrets may be seen by people.
fn keeps_secrets(daemon: Daemon, home: &Home, secrets: &[&str]) {
    let mut said = home.ok(&["check"]);
    said.push_str(&String::from_utf8_lossy(&home.run(&["preview", "crm"]).stdout));
    let trigger = home.run(&["trigger", "crm"]);
    said.push_str(&String::from_utf8_lossy(&trigger.stdout));
    said.push_str(&String::from_utf8_lossy(&trigger.stderr));
    let trigger = home.run(&["--json", "trigger", "crm"]);
    said.push_str(&String::from_utf8_lossy(&trigger.stdout));
    said.push_str(&daemon.stop().1);
    for secret in secrets {
        assert!(!said.contains(secret), "{secret} is shown:\n{said}");
    }
}

// --- HubSpot ---

const HUBSPOT_TOKEN: &str = "pat-eu1-0123456789";

#[derive(Default)]
struct Contacts {
    by_email: BTreeMap<String, Value>,
    created: Vec<Value>,
    throttle: usize,
    requests: usize,
}

fn hubspot(contacts: &Shared<Contacts>) -> Receiver {
    let contacts = Arc::clone(contacts);
    Receiver::start(move |d| {
        let mut contacts = contacts.lock().unwrap();
        contacts.requests += 1;
        if d.header("authorization") != format!("Bearer {HUBSPOT_TOKEN}") {
            return answer(401, &json!({"status":"error","category":"INVALID_AUTHENTICATION","message":"no"}));
        }
        if contacts.throttle > 0 {
            contacts.throttle -= 1;
            return answer(429, &json!({"status":"error","policyName":"SECONDLY","message":"You have reached your secondly limit."}));
        }
        let upsert = match (d.method.as_str(), path(d)) {
            ("POST", "/crm/objects/2026-03/contacts/batch/upsert") => true,
            ("POST", "/crm/objects/2026-03/contacts/batch/create") => false,
            _ => return answer(404, &json!({"status":"error"})),
        };
        let inputs = d.json()["inputs"].as_array().unwrap().clone();
        let known = ["email", "firstname", "lastname", "phone", "company", "message"];
        let ids: BTreeSet<&str> = inputs.iter().filter_map(|i| i["id"].as_str()).collect();
        if inputs.is_empty() || inputs.len() > 100 || (upsert && ids.len() != inputs.len()) {
            return answer(400, &json!({"status":"error","category":"VALIDATION_ERROR","message":"bad inputs"}));
        }
        for input in &inputs {
            let properties = input["properties"].as_object().unwrap();
            assert!(properties.values().all(Value::is_string), "the schema wants texts: {input}");
            assert_eq!(input["idProperty"] == "email", upsert, "{input}");
            if let Some(bad) = properties.keys().find(|k| !known.contains(&k.as_str())) {
                let message = format!("Property values were not valid: [{{\"error\":\"PROPERTY_DOESNT_EXIST\",\"name\":\"{bad}\"}}]");
                return answer(400, &json!({"status":"error","category":"VALIDATION_ERROR","message":message}));
            }
        }
        let (mut results, mut errors) = (Vec::new(), Vec::new());
        for input in inputs {
            let trace = input["objectWriteTraceId"].as_str().unwrap().to_owned();
            let email = input["properties"]["email"].as_str().unwrap_or_default().to_owned();
            if email.ends_with(".invalid") {
                errors.push(json!({"status":"error","category":"VALIDATION_ERROR","message":format!("Email address {email} is invalid"),
                    "context":{"objectWriteTraceId":[trace]}}));
                continue;
            }
            if upsert {
                contacts.by_email.insert(email, input["properties"].clone());
            } else {
                contacts.created.push(input["properties"].clone());
            }
            // Not in the order of the request.
            results.insert(0, json!({"id":"1","new":true,"properties":input["properties"],"objectWriteTraceId":trace}));
        }
        let status = if errors.is_empty() { 200 } else { 207 };
        answer(status, &json!({"status":"COMPLETE","results":results,"numErrors":errors.len(),"errors":errors}))
    })
}

fn hubspot_home(receiver: &Receiver, more: &str) -> Home {
    Home::new(&destination("hubspot", &format!("url = \"{}\"\nsecret = \"{HUBSPOT_TOKEN}\"\n{more}", base(receiver))))
}

#[test]
fn a_contact_hubspot_does_not_take_keeps_none_of_its_batch() {
    let contacts = Shared::<Contacts>::default();
    let mut receiver = hubspot(&contacts);
    receiver.down();
    let home = hubspot_home(&receiver, "");
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    for n in 0..30 {
        client.lead(&json!({"name":format!("Jane van Dyke {n}"),"email":format!("Jane{n}@example.com"),"score":80,"source":"booth-a"}));
    }
    client.lead(&json!({"name":"Bad","email":"bad@example.invalid"}));
    client.lead(&json!({"name":"Twice","email":"twice@example.com","message":"first"}));
    client.lead(&json!({"name":"Twice","email":"TWICE@example.com","message":"second"}));
    client.lead(&json!({"name":"No Address","phone":"+43 664 1234567"}));
    contacts.lock().unwrap().throttle = 2;
    receiver.up();
    eventually("all but one are there", || {
        let contacts = contacts.lock().unwrap();
        contacts.by_email.len() == 32 && contacts.created.len() == 1
    });
    eventually("the bad one is given up", || dead(&home).len() == 1);
    let contacts = contacts.lock().unwrap();
    assert!(contacts.requests < 25, "{} requests for 34 leads: not in batches", contacts.requests);
    let jane = &contacts.by_email["Jane3@example.com"];
    assert_eq!((&jane["firstname"], &jane["lastname"]), (&json!("Jane"), &json!("van Dyke 3")));
    assert_eq!(jane["message"], "Source: booth-a\nScore: 80");
    assert_eq!(contacts.created[0]["phone"], "+43 664 1234567");
    drop(contacts);
    assert!(!daemon.log().contains("bad@example.invalid"), "{}", daemon.log());
    keeps_secrets(daemon, &home, &[HUBSPOT_TOKEN]);
}

#[test]
fn a_property_hubspot_lacks_holds_the_leads_until_the_mapping_is_right() {
    let contacts = Shared::<Contacts>::default();
    let receiver = hubspot(&contacts);
    let home = hubspot_home(&receiver, "map = { leadsbot_score = \"data.score\" }");
    let daemon = Daemon::start(&home);
    Client::new(daemon.address).lead(&json!({"name":"Jane","email":"jane@example.com"}));
    eventually("the operator is told", || daemon.log().contains("map names a property that this account does not have"));
    assert_eq!(dead(&home).len(), 0);
    daemon.stop();
    home.configure(&destination("hubspot", &format!("url = \"{}\"\nsecret = \"{HUBSPOT_TOKEN}\"", base(&receiver))));
    // What an earlier attempt said may be kept; a new lead shows that the lane goes on.
    let daemon = Daemon::start(&home);
    Client::new(daemon.address).lead(&json!({"name":"Joe","email":"joe@example.com"}));
    eventually("the next one gets through", || contacts.lock().unwrap().by_email.contains_key("joe@example.com"));
}

#[test]
fn without_an_address_a_lead_is_created_once_refused_or_left_out_as_configured() {
    for (rule, created, given_up) in [("create", 1, 0), ("reject", 0, 2), ("skip", 0, 0)] {
        let contacts = Shared::<Contacts>::default();
        let receiver = hubspot(&contacts);
        let home = hubspot_home(&receiver, &format!("without_id = \"{rule}\""));
        let daemon = Daemon::start(&home);
        let client = Client::new(daemon.address);
        let (id, _) = client.lead(&json!({"name":"Only Name"}));
        client.json("PATCH", &format!("/api/v1/leads/{id}"), &json!({"score":70}));
        client.lead(&json!({"name":"Last","email":"last@example.com"}));
        eventually("the last is there", || contacts.lock().unwrap().by_email.contains_key("last@example.com"));
        eventually("the others are settled", || dead(&home).len() == given_up);
        assert_eq!(contacts.lock().unwrap().created.len(), created, "{rule}");
        drop(daemon);
    }
}

// --- Salesforce ---

#[test]
fn the_form_of_salesforce_has_all_it_needs_and_only_new_leads_fill_it() {
    let receiver = Receiver::start(|d| {
        let form = form(d);
        let mandatory = ["oid", "last_name", "company"].iter().all(|name| form.get(*name).is_some_and(|v| !v.is_empty()));
        let short = form.get("last_name").is_none_or(|n| n.chars().count() <= 80);
        let processed = if mandatory && short && form["oid"] == "00D000000000062" { "true" } else { "true Exception:common.exception" };
        Reply::status(200).header("Is-Processed", processed)
    });
    let more = format!("url = \"{}/servlet/servlet.WebToLead?encoding=UTF-8\"\n", base(&receiver));
    let home =
        Home::new(&destination("salesforce", &format!("{more}oid = \"00D000000000062\"\nmap = {{ \"00N000001\" = \"data.score\" }}")));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let (id, _) = client.lead(&json!({"name":"Zoë van Dyke","email":"zoe@example.com","score":7,"source":"booth"}));
    client.json("PATCH", &format!("/api/v1/leads/{id}"), &json!({"score":70}));
    client.lead(&json!({"email":"only@example.com"}));
    eventually("two forms", || receiver.seen().len() == 2);
    let forms: Vec<_> = receiver.seen().iter().map(form).collect();
    assert!(receiver.seen().iter().all(|d| d.path.ends_with("?encoding=UTF-8")));
    let zoe = forms.iter().find(|f| f["email"] == "zoe@example.com").unwrap();
    let expected =
        [("first_name", "Zoë"), ("last_name", "van Dyke"), ("company", "Zoë van Dyke"), ("lead_source", "booth"), ("00N000001", "7")];
    for (name, value) in expected {
        assert_eq!(zoe[name], value, "{name}");
    }
    let only = forms.iter().find(|f| f["email"] == "only@example.com").unwrap();
    assert_eq!((only["last_name"].as_str(), only["company"].as_str()), ("only@example.com", "Unknown"));
    daemon.stop();
    home.configure(&destination("salesforce", &format!("{more}oid = \"00D000000000063\"")));
    let told = home.run(&["trigger", "crm"]);
    assert!(String::from_utf8_lossy(&told.stdout).contains("check oid"), "{told:?}");
}

/// Gives tokens that end after so many uses.
struct Tokens {
    given: usize,
    uses_left: usize,
    uses: usize,
}

impl Tokens {
    fn of(uses: usize) -> Self {
        Self { given: 0, uses_left: 0, uses }
    }

    fn give(&mut self) -> String {
        self.given += 1;
        self.uses_left = self.uses;
        format!("access-token-{}", self.given)
    }

    fn take(&mut self, token: &str) -> bool {
        let good = token == format!("access-token-{}", self.given) && self.uses_left > 0;
        self.uses_left = self.uses_left.saturating_sub(1);
        good
    }
}

#[test]
fn a_salesforce_lead_is_one_record_through_all_its_events_and_through_sessions_that_end() {
    let state: Shared<(Tokens, BTreeMap<String, Value>)> = Arc::new(Mutex::new((Tokens::of(2), BTreeMap::new())));
    let shared = Arc::clone(&state);
    let receiver = Receiver::start(move |d| {
        let (tokens, records) = &mut *shared.lock().unwrap();
        if path(d) == "/services/oauth2/token" {
            let form = form(d);
            if form["grant_type"] != "client_credentials" || form["client_secret"] != "client-secret-1" || form["client_id"] != "client-1" {
                return answer(400, &json!({"error":"invalid_client","error_description":"invalid client credentials"}));
            }
            return answer(
                200,
                &json!({"access_token":tokens.give(),"instance_url":format!("http://{}", d.header("host")),"token_type":"Bearer"}),
            );
        }
        if !tokens.take(d.header("authorization").trim_start_matches("Bearer ")) {
            return answer(401, &json!([{"errorCode":"INVALID_SESSION_ID","message":"Session expired or invalid"}]));
        }
        let Some(id) = path(d).strip_prefix("/services/data/v62.0/sobjects/Lead/LeadsBot_Id__c/").filter(|_| d.method == "PATCH") else {
            return answer(404, &json!([{"errorCode":"NOT_FOUND","message":"no such resource"}]));
        };
        let lead = d.json();
        for mandatory in ["LastName", "Company"] {
            if !lead[mandatory].is_string() {
                return answer(400, &json!([{"errorCode":"REQUIRED_FIELD_MISSING","message":"required","fields":[mandatory]}]));
            }
        }
        if lead["Email"].as_str().is_some_and(|e| e.ends_with(".invalid")) {
            return answer(400, &json!([{"errorCode":"INVALID_EMAIL_ADDRESS","message":"invalid email address","fields":["Email"]}]));
        }
        match records.insert(id.to_owned(), lead) {
            None => answer(201, &json!({"id":"00Q","success":true,"created":true,"errors":[]})),
            Some(_) => answer(200, &json!({"id":"00Q","success":true,"created":false,"errors":[]})),
        }
    });
    let keys = format!(
        "mode = \"rest\"\nurl = \"{}\"\nclient_id = \"client-1\"\nclient_secret = \"client-secret-1\"\nexternal_id_field = \"LeadsBot_Id__c\"",
        base(&receiver)
    );
    let home = Home::new(&destination("salesforce", &keys));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    client.lead(&json!({"name":"Bad","email":"bad@example.invalid"}));
    let (id, _) = client.lead(&json!({"name":"Jane Smith","email":"jane@example.com","score":5}));
    client.json("PATCH", &format!("/api/v1/leads/{id}"), &json!({"score":70,"status":"contacted"}));
    for n in 0..5 {
        client.lead(&json!({"name":format!("Other {n}")}));
    }
    eventually("six records", || state.lock().unwrap().1.len() == 6);
    eventually("the update", || state.lock().unwrap().1[&id]["Description"] == "Score: 70");
    eventually("the bad one is given up", || dead(&home).len() == 1);
    {
        let (tokens, records) = &*state.lock().unwrap();
        assert_eq!((&records[&id]["FirstName"], &records[&id]["LastName"]), (&json!("Jane"), &json!("Smith")));
        assert!(tokens.given >= 4, "{} tokens", tokens.given);
        assert!(records.keys().all(|id| id.starts_with("lead_")));
    }
    keeps_secrets(daemon, &home, &["client-secret-1", "access-token-"]);
}

#[test]
fn credentials_that_are_not_accepted_hold_everything_and_name_the_cause() {
    let receiver = Receiver::start(|_| answer(400, &json!({"error":"invalid_grant","error_description":"expired access/refresh token"})));
    let keys = format!(
        "mode = \"rest\"\nurl = \"{}\"\nclient_id = \"c\"\nclient_secret = \"client-secret-1\"\nrefresh_token = \"refresh-token-1\"\n\
         external_id_field = \"LeadsBot_Id__c\"",
        base(&receiver)
    );
    let home = Home::new(&destination("salesforce", &keys));
    let daemon = Daemon::start(&home);
    Client::new(daemon.address).lead(&json!({"name":"Jane"}));
    eventually("the cause is named", || daemon.log().contains("no access token (invalid_grant)"));
    assert_eq!(dead(&home).len(), 0);
    assert_eq!(form(&receiver.seen()[0])["grant_type"], "refresh_token");
    keeps_secrets(daemon, &home, &["client-secret-1", "refresh-token-1"]);
}

// --- Pipedrive ---

#[derive(Default)]
struct Company {
    persons: Vec<Value>,
    leads: Vec<Value>,
    notes: Vec<Value>,
    /// Answers that get lost on their way back: what was asked is done all the same.
    lose: usize,
    capped: bool,
}

fn pipedrive(company: &Shared<Company>) -> Receiver {
    let company = Arc::clone(company);
    Receiver::start(move |d| {
        let mut company = company.lock().unwrap();
        if d.header("x-api-token") != "pipedrive-token-1" {
            return answer(401, &json!({"success":false,"error":"unauthorized access","errorCode":401}));
        }
        let query = query(d);
        let done = |data: Value| answer(200, &json!({"success":true,"data":data}));
        let reply = match (d.method.as_str(), path(d)) {
            ("GET", "/api/v2/persons/search") => {
                assert_eq!(query["exact_match"], "true");
                let field = if query["fields"] == "email" { "emails" } else { "phones" };
                let term = query["term"].to_lowercase();
                let is = |p: &&Value| p[field][0]["value"].as_str().is_some_and(|v| v.to_lowercase() == term);
                let items: Vec<Value> =
                    company.persons.iter().filter(is).map(|p| json!({"result_score":1,"item":{"id":p["id"]}})).collect();
                return done(json!({ "items": items }));
            }
            ("GET", "/api/v1/leads") => {
                let mine = |l: &&Value| l["person_id"].to_string() == query["person_id"];
                return done(Value::Array(company.leads.iter().filter(mine).cloned().collect()));
            }
            ("GET", "/api/v1/notes") => {
                let notes: Vec<Value> = company.notes.iter().filter(|n| n["lead_id"] == query["lead_id"].as_str()).cloned().collect();
                return done(Value::Array(notes));
            }
            ("POST", "/api/v2/persons") => {
                let mut person = d.json();
                assert!(person["name"].as_str().is_some_and(|n| !n.is_empty()));
                person["id"] = json!(company.persons.len() + 1);
                company.persons.push(person.clone());
                answer(201, &json!({"success":true,"data":person}))
            }
            ("POST", "/api/v1/leads") if company.capped => {
                return answer(403, &json!({"success":false,"error":"limit","code":"feature_capping_deals_limit"}));
            }
            ("POST", "/api/v1/leads") => {
                let mut lead = d.json();
                assert!(lead["title"].is_string() && lead["person_id"].is_number(), "{lead}");
                lead["id"] = json!(format!("adf21080-{}", company.leads.len()));
                company.leads.push(lead.clone());
                answer(201, &json!({"success":true,"data":lead}))
            }
            ("POST", "/api/v1/notes") => {
                company.notes.push(d.json());
                answer(201, &json!({"success":true,"data":{"id":1}}))
            }
            _ => answer(404, &json!({"success":false})),
        };
        if company.lose > 0 {
            company.lose -= 1;
            return Reply::status(502);
        }
        reply
    })
}

fn pipedrive_home(receiver: &Receiver, more: &str) -> Home {
    Home::new(&destination("pipedrive", &format!("url = \"{}\"\nsecret = \"pipedrive-token-1\"\n{more}", base(receiver))))
}

#[test]
fn a_person_a_lead_and_a_note_are_made_once_however_many_answers_get_lost() {
    let company = Shared::<Company>::default();
    company.lock().unwrap().lose = 3;
    let receiver = pipedrive(&company);
    let home = pipedrive_home(&receiver, "");
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    client.lead(&json!({"name":"Jane Smith","email":"jane@example.com","message":"<b>Call</b> me","source":"booth"}));
    eventually("the note", || company.lock().unwrap().notes.len() == 1);
    client.lead(&json!({"name":"Jane again","email":"JANE@example.com"}));
    client.lead(&json!({"name":"Joe","phone":"+43 664 1"}));
    eventually("three leads", || company.lock().unwrap().notes.len() == 3);
    let (code, log) = daemon.stop();
    assert_eq!(code, Some(0), "{log}");
    let company = company.lock().unwrap();
    assert_eq!((company.persons.len(), company.leads.len(), company.notes.len()), (2, 3, 3));
    assert!(company.leads[0]["title"].as_str().unwrap().starts_with("Jane Smith (booth) ["));
    assert_eq!((&company.leads[0]["person_id"], &company.leads[1]["person_id"]), (&json!(1), &json!(1)));
    assert!(company.notes[0]["content"].as_str().unwrap().starts_with("&lt;b&gt;Call&lt;/b&gt; me<br>"), "{}", company.notes[0]);
    assert!(!log.contains("jane@example.com"), "{log}");
}

#[test]
fn a_plan_that_is_full_holds_the_leads_until_there_is_room() {
    let company = Shared::<Company>::default();
    company.lock().unwrap().capped = true;
    let receiver = pipedrive(&company);
    let home = pipedrive_home(&receiver, "map = { label_ids = \"['f08b42a0']\" }");
    let daemon = Daemon::start(&home);
    Client::new(daemon.address).lead(&json!({"name":"Jane","email":"jane@example.com"}));
    eventually("the operator is told", || {
        daemon.log().contains("the limit of the Pipedrive plan is reached (feature_capping_deals_limit)")
    });
    company.lock().unwrap().capped = false;
    eventually("it gets through", || company.lock().unwrap().leads.len() == 1);
    assert_eq!(company.lock().unwrap().persons.len(), 1);
    assert_eq!(company.lock().unwrap().leads[0]["label_ids"], json!(["f08b42a0"]));
    keeps_secrets(daemon, &home, &["pipedrive-token-1"]);
}

// --- Zoho ---

#[test]
fn zoho_tells_of_each_lead_and_gives_a_new_token_when_one_has_ended() {
    let state: Shared<(Tokens, Vec<Value>)> = Arc::new(Mutex::new((Tokens::of(2), Vec::new())));
    let shared = Arc::clone(&state);
    let mut receiver = Receiver::start(move |d| {
        let (tokens, leads) = &mut *shared.lock().unwrap();
        if path(d) == "/oauth/v2/token" {
            let form = form(d);
            if form["grant_type"] != "refresh_token" || form["refresh_token"] != "1000.refresh" || form["client_secret"] != "zoho-secret" {
                return answer(200, &json!({"error":"invalid_code"}));
            }
            return answer(200, &json!({"access_token":tokens.give(),"expires_in":3600,"token_type":"Bearer"}));
        }
        if !tokens.take(d.header("authorization").trim_start_matches("Zoho-oauthtoken ")) {
            return answer(401, &json!({"code":"INVALID_TOKEN","details":{},"message":"invalid oauth token","status":"error"}));
        }
        assert_eq!((d.method.as_str(), path(d)), ("POST", "/crm/v8/Leads/upsert"));
        let body = d.json();
        assert_eq!(body["duplicate_check_fields"], json!(["Email"]));
        let data = body["data"].as_array().unwrap();
        assert!((1..=100).contains(&data.len()));
        let emails: Vec<String> = data.iter().filter_map(|l| Some(l["Email"].as_str()?.to_lowercase())).collect();
        assert_eq!(emails.iter().collect::<BTreeSet<_>>().len(), emails.len(), "an address twice in a request");
        let mut failed = false;
        let results: Vec<Value> = data
            .iter()
            .map(|lead| {
                if !lead["Last_Name"].is_string() {
                    failed = true;
                    return json!({"code":"MANDATORY_NOT_FOUND","details":{"api_name":"Last_Name"},"message":"required field not found","status":"error"});
                }
                if lead["Email"].as_str().is_some_and(|e| e.ends_with(".invalid")) {
                    failed = true;
                    return json!({"code":"INVALID_DATA","details":{"api_name":"Email"},"message":"invalid data","status":"error"});
                }
                leads.push(lead.clone());
                json!({"code":"SUCCESS","details":{"id":"1"},"message":"record added","status":"success","action":"insert"})
            })
            .collect();
        answer(if failed { 207 } else { 200 }, &json!({ "data": results }))
    });
    receiver.down();
    let keys = format!(
        "url = \"{0}\"\naccounts_url = \"{0}\"\nclient_id = \"1000.CLIENT\"\nclient_secret = \"zoho-secret\"\nrefresh_token = \"1000.refresh\"",
        base(&receiver)
    );
    let home = Home::new(&destination("zoho", &keys));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    for n in 0..20 {
        client.lead(&json!({"name":format!("Jane Smith {n}"),"email":format!("jane{n}@example.com")}));
    }
    client.lead(&json!({"name":"Bad","email":"bad@example.invalid"}));
    client.lead(&json!({"name":"Twice","email":"twice@example.com"}));
    client.lead(&json!({"name":"Twice","email":"Twice@example.com"}));
    receiver.up();
    eventually("all but one are there", || state.lock().unwrap().1.len() == 22);
    eventually("the bad one is given up", || dead(&home).len() == 1);
    assert!(daemon.log().contains("(INVALID_DATA at Email)"), "{}", daemon.log());
    for n in 0..5 {
        client.lead(&json!({"name":format!("Later {n}")}));
        eventually("it is there", || state.lock().unwrap().1.len() == 23 + n);
    }
    assert!(state.lock().unwrap().0.given >= 3, "tokens have ended meanwhile");
    keeps_secrets(daemon, &home, &["zoho-secret", "1000.refresh", "access-token-"]);
}

// --- Mailchimp ---

#[test]
fn only_who_has_consented_gets_into_the_audience_and_twice_is_once() {
    let members = Shared::<BTreeMap<String, Value>>::default();
    let shared = Arc::clone(&members);
    let receiver = Receiver::start(move |d| {
        if d.header("authorization") != "Basic bGVhZHNib3RkOm1haWxjaGltcC1rZXktdXMyMQ==" {
            return answer(401, &json!({"title":"API Key Invalid","status":401}));
        }
        let body = d.json();
        let email = body["email_address"].as_str().unwrap().to_owned();
        let digest = path(d).strip_prefix("/3.0/lists/a1b2c3d4e5/members/").unwrap().to_owned();
        assert_eq!((d.method.as_str(), digest.len()), ("PUT", 32));
        assert_eq!(body["status_if_new"], "pending");
        assert!(body.get("status").is_none(), "it would change the status of a member");
        if email.starts_with("gone@") {
            return answer(
                400,
                &json!({"title":"Member In Compliance State","status":400,"detail":format!("{email} is in a compliance state")}),
            );
        }
        shared.lock().unwrap().insert(digest.clone(), body);
        answer(200, &json!({"id":digest,"status":"pending"}))
    });
    let keys = format!("url = \"{}\"\nsecret = \"mailchimp-key-us21\"\nlist = \"a1b2c3d4e5\"", base(&receiver));
    let home = Home::new(&destination("mailchimp", &keys));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let consent = json!({"text":"You may write to me."});
    let without = [json!({"name":"Without Consent","email":"without@example.com"}), json!({"name":"Without Address","consent":consent})];
    let without: Vec<String> = without.iter().map(|lead| client.lead(lead).0).collect();
    client.lead(&json!({"name":"Gone","email":"gone@example.com","consent":consent}));
    client.lead(&json!({"name":"Jane van Dyke","email":"Jane@Example.com","consent":consent}));
    client.lead(&json!({"name":"Jane","email":"jane@example.com","consent":consent}));
    eventually("Jane is put twice", || receiver.taken().len() == 2);
    eventually("who is gone is given up", || dead(&home).len() == 1);
    for id in without {
        eventually("it is done", || {
            client.get(&format!("/api/v1/leads/{id}")).json()["events"][0]["deliveries"][0]["state"] == "delivered"
        });
    }
    assert!(daemon.log().contains("only they themselves can come back"), "{}", daemon.log());
    {
        let members = members.lock().unwrap();
        assert_eq!(members.keys().collect::<Vec<_>>(), ["9e26471d35a78862c17e467d87cddedf"]);
        assert_eq!(receiver.seen().iter().filter(|d| d.json()["email_address"] == "without@example.com").count(), 0);
    }
    keeps_secrets(daemon, &home, &["mailchimp-key-us21", "bGVhZHNib3RkOm1haWxjaGltcC1rZXktdXMyMQ"]);
}

#[test]
fn every_crm_shows_the_request_it_would_make() {
    for (kind, keys, expected) in [
        (
            "hubspot",
            "secret = \"pat-0123456789\"",
            vec!["POST to crm (https://api.hubapi.com/crm/objects/2026-03/contacts/batch/upsert)", "\"firstname\":\"Jane\""],
        ),
        ("salesforce", "oid = \"00D0\"", vec!["POST to crm (https://webto.salesforce.com/servlet/servlet.WebToLead)", "last_name=Smith"]),
        (
            "salesforce",
            "mode = \"rest\"\nurl = \"https://x.my.salesforce.com\"\nclient_id = \"c\"\nclient_secret = \"s\"\nexternal_id_field = \"Id__c\"",
            vec!["PATCH to crm (https://x.my.salesforce.com/services/data/v62.0/sobjects/Lead/Id__c/lead_", "\"LastName\":\"Smith\""],
        ),
        (
            "pipedrive",
            "url = \"https://x.pipedrive.com\"\nsecret = \"0123456789\"",
            vec!["GET to crm (https://x.pipedrive.com/api/v2/persons/search)"],
        ),
        (
            "zoho",
            "data_centre = \"eu\"\nclient_id = \"c\"\nclient_secret = \"s\"\nrefresh_token = \"r\"",
            vec!["POST to crm (https://www.zohoapis.eu/crm/v8/Leads/upsert)", "\"Last_Name\":\"Smith\""],
        ),
        (
            "mailchimp",
            "secret = \"0123456789-us21\"\nlist = \"a1\"\nrequire_consent = false",
            vec!["PUT to crm (https://us21.api.mailchimp.com/3.0/lists/a1/members/9e26471d35a78862c17e467d87cddedf)", "\"FNAME\":\"Jane\""],
        ),
    ] {
        let home = Home::new(&destination(kind, keys));
        let shown = home.ok(&["preview", "crm"]).replace("\": \"", "\":\"");
        for part in expected {
            assert!(shown.contains(part), "{kind}: no {part} in\n{shown}");
        }
    }
}
