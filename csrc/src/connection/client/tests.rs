//! A client connection and the frames of a daemon.

use super::*;

#[test]
fn broadcasts_before_the_join_arrive_after_it() {
    let mut theirs = Notebook::create("n").unwrap();
    let mut of_theirs = PeerSync::new();
    let (mut ours, mut client) = (Notebook::empty(), Client::new("n").unwrap());
    let mut wire = Vec::new();
    frame::append(&mut wire, None, br#"{"protocol":"v2","rtd":1}"#).unwrap();
    let first = of_theirs.generate(&theirs).unwrap();
    frame::append(&mut wire, Some(FrameType::Sync), &first).unwrap();
    frame::append(&mut wire, Some(FrameType::Broadcast), br#"{"event":"comm_sync","comms":[]}"#).unwrap();
    client.push(&wire);
    let mut events = Vec::new();
    while let Some(event) = client.next(&mut ours, 0).unwrap() {
        events.push(event);
    }
    assert_eq!((events.len(), client.dialect()), (0, Dialect::Ours2));
    // Its answer asks for the document, and that is the daemon's last message.
    let mut answers = Decoder::new(DATA_LIMIT);
    let mut out = Vec::new();
    client.take_output(&mut out);
    answers.push(&out);
    let handshake = answers.next_frame().unwrap().unwrap();
    assert_eq!(handshake[0], b'{');
    let answer = answers.next_frame().unwrap().unwrap();
    of_theirs.receive(&mut theirs, split(&answer).unwrap().1).unwrap();
    let second = of_theirs.generate(&theirs).unwrap();
    wire.clear();
    frame::append(&mut wire, Some(FrameType::Sync), &second).unwrap();
    client.push(&wire);
    let mut kind = || client.next(&mut ours, 0).unwrap().map(|event| event.kind);
    assert_eq!(kind(), Some(RTD_EV_READY));
    assert_eq!(kind(), Some(RTD_EV_BROADCAST));
}

#[test]
fn what_the_daemon_changed_is_acknowledged_in_a_pause_or_at_a_limit() {
    let mut theirs = Notebook::create("n").unwrap();
    let mut of_theirs = PeerSync::new();
    let (mut ours, mut client) = (Notebook::empty(), Client::new("n").unwrap());
    let mut wire = Vec::new();
    frame::append(&mut wire, None, br#"{"protocol":"v2","rtd":1}"#).unwrap();
    let mut of_client = Decoder::new(DATA_LIMIT);
    let mut first = true;
    // Passes the daemon's messages to the client at a time; returns how many messages the client sends then.
    let mut deliver = |client: &mut Client, theirs: &mut Notebook, now: Millis| {
        while let Some(message) = of_theirs.generate(theirs) {
            frame::append(&mut wire, Some(FrameType::Sync), &message).unwrap();
        }
        client.push(&wire);
        wire.clear();
        while client.next(&mut ours, now).unwrap().is_some() {}
        client.tick(&ours, now).unwrap();
        let mut out = Vec::new();
        client.take_output(&mut out);
        of_client.push(&out);
        let mut count = 0;
        while let Some(frame) = of_client.next_frame().unwrap() {
            if !std::mem::take(&mut first) {
                of_theirs.receive(theirs, split(&frame).unwrap().1).unwrap();
                count += 1;
            }
        }
        count
    };
    while !client.is_ready() {
        deliver(&mut client, &mut theirs, 0);
    }
    deliver(&mut client, &mut theirs, 0);
    assert_eq!(client.deadline(), None);
    let mut change = |client: &mut Client, now: Millis| {
        let value = now.to_string();
        theirs.edit(&[crate::notebook::Op::SetMetadata { key: "k".into(), value }]).unwrap();
        deliver(client, &mut theirs, now)
    };
    let start = 1000;
    for now in (start..start + ACK_LIMIT).step_by(15) {
        assert_eq!(change(&mut client, now), 0, "at {now}");
        assert_eq!(client.deadline(), Some((now + ACK_QUIET).min(start + ACK_LIMIT)));
    }
    assert_eq!(change(&mut client, start + ACK_LIMIT), 1, "it goes on without a pause");
    // What came with it is acknowledged as well.
    assert_eq!(client.deadline(), None);
    assert_eq!(change(&mut client, 5000), 0);
    assert_eq!(client.deadline(), Some(5000 + ACK_QUIET));
}
