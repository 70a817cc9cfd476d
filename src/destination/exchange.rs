//! Lets a connector ask until it has judged. Pure: who sends is an argument. It must always come to an end.

use super::{Answer, Connector, Judgement, Memory, Moment, Next, Record, Request, Verdict};

/// Requests that one exchange may take. More would be a fault of its connector.
const REQUESTS_MAX: usize = 16;

/// One exchange about `records`. Also gives the answers, in order.
pub fn exchange(
    connector: &dyn Connector,
    records: &[Record<'_>],
    memory: &mut Memory,
    moment: impl Fn() -> Moment,
    mut send: impl FnMut(&Request) -> Answer,
) -> (Judgement, Vec<Answer>) {
    let mut said = Vec::new();
    let fault = |reason: &str| Judgement::All(Verdict::internal(reason));
    let judgement = loop {
        match connector.next(records, &said, &moment(), memory) {
            Ok(Next::Send(request)) if said.len() < REQUESTS_MAX => said.push(send(&request)),
            Ok(Next::Send(_)) => break fault("the exchange does not come to an end"),
            Ok(Next::Judged(Judgement::Each(verdicts))) if verdicts.len() != records.len() => {
                break fault("the exchange was judged for another number of deliveries");
            }
            Ok(Next::Judged(judgement)) => break judgement,
            Err(e) => break Judgement::All(Verdict::internal(e.to_string())),
        }
    };
    (judgement, said)
}
