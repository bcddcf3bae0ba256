use std::net::Ipv4Addr;

use tokio::io::AsyncReadExt;

use super::*;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LINK: LinkId = LinkId(1);

#[test]
fn bucket_allows_a_burst_then_one_per_interval() {
    let start = Instant::now();
    let interval = Duration::from_millis(50);
    let mut bucket = TokenBucket::new(20, interval, start);
    for _ in 0..20 {
        assert_eq!(bucket.take(start), Ok(()));
    }
    assert_eq!(bucket.take(start), Err(start + interval));
    let early = start + Duration::from_millis(49);
    assert_eq!(bucket.take(early), Err(start + interval));
    assert_eq!(bucket.take(start + interval), Ok(()));
    assert_eq!(bucket.take(start + interval), Err(start + interval * 2));
    // Two and a half intervals bring two tokens, and the half is not lost.
    let later = start + Duration::from_millis(175);
    assert_eq!(bucket.take(later), Ok(()));
    assert_eq!(bucket.take(later), Ok(()));
    assert_eq!(bucket.take(later), Err(start + interval * 4));
}

#[test]
fn bucket_never_holds_more_than_its_capacity() {
    let start = Instant::now();
    let mut bucket = TokenBucket::new(3, Duration::from_millis(50), start);
    let later = start + Duration::from_secs(3600);
    for _ in 0..3 {
        assert_eq!(bucket.take(later), Ok(()));
    }
    assert_eq!(bucket.take(later), Err(later + Duration::from_millis(50)));
}

async fn next(inputs: &mut mpsc::Receiver<Input>) -> Input {
    let patience = Duration::from_secs(5);
    timeout(patience, inputs.recv()).await.unwrap().unwrap()
}

/// A link that was dialled, and the other end of it.
async fn connected() -> (Links, mpsc::Receiver<Input>, TcpStream) {
    let (sender, mut inputs) = mpsc::channel(INPUT_COUNT);
    let mut links = Links::new(LOOPBACK, sender);
    let listener = listen(SocketAddr::new(LOOPBACK, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    links.dial(LINK, address);
    let (far, from) = listener.accept().await.unwrap();
    let Input::Dialled(LINK, Ok((stream, local))) = next(&mut inputs).await else {
        panic!("not dialled");
    };
    assert_eq!(local, from);
    assert!(stream.nodelay().unwrap());
    assert!(links.dial_ended(LINK) && !links.dial_ended(LINK));
    links.adopt(LINK, stream);
    assert!(links.contains(LINK) && links.is_idle(LINK));
    (links, inputs, far)
}

#[tokio::test]
async fn bytes_go_both_ways_one_chunk_at_a_time() {
    let (mut links, mut inputs, mut far) = connected().await;
    links.write(LINK, b"hello".to_vec());
    assert!(!links.is_idle(LINK));
    assert!(matches!(next(&mut inputs).await, Input::Written(LINK)));
    links.written(LINK);
    assert!(links.is_idle(LINK));
    let mut heard = [0; 5];
    far.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");

    far.write_all(&vec![9; 100_000]).await.unwrap();
    let mut len = 0;
    while len < 100_000 {
        let Input::Bytes(LINK, bytes) = next(&mut inputs).await else {
            panic!("no bytes");
        };
        assert!(bytes.len() <= CHUNK_LEN && bytes.iter().all(|byte| *byte == 9));
        len += bytes.len();
    }
}

#[tokio::test]
async fn flood_waits_in_a_bounded_queue_and_nothing_is_lost() {
    let (_links, mut inputs, mut far) = connected().await;
    // Far more than the queue and both socket buffers hold.
    let total = 32 << 20;
    let flood = tokio::spawn(async move { far.write_all(&vec![3; total]).await.map(|()| far) });
    while inputs.len() < INPUT_COUNT {
        tokio::task::yield_now().await;
    }
    let mut len = 0;
    while len < total {
        assert!(inputs.len() <= INPUT_COUNT);
        let Input::Bytes(LINK, bytes) = next(&mut inputs).await else {
            panic!("no bytes");
        };
        len += bytes.len();
    }
    assert_eq!(len, total);
    flood.await.unwrap().unwrap();
}

#[tokio::test]
async fn end_of_the_stream_and_reset_are_reported() {
    let (_links, mut inputs, far) = connected().await;
    drop(far);
    let Input::Closed(LINK, reason) = next(&mut inputs).await else {
        panic!("not closed");
    };
    assert_eq!(reason, "closed by the other end");

    let (mut links, mut inputs, far) = connected().await;
    links.write(LINK, b"unread".to_vec());
    assert!(matches!(next(&mut inputs).await, Input::Written(LINK)));
    far.readable().await.unwrap();
    // Closing with unread bytes resets.
    drop(far);
    let Input::Closed(LINK, reason) = next(&mut inputs).await else {
        panic!("not closed");
    };
    assert_eq!(reason, "connection reset by peer");
}

#[tokio::test]
async fn closing_ends_the_connection_and_its_tasks() {
    let (mut links, mut inputs, mut far) = connected().await;
    links.close(LINK, Vec::new());
    assert!(!links.contains(LINK));
    assert_eq!(far.read(&mut [0; 1]).await.unwrap(), 0);
    links.write(LINK, b"to nobody".to_vec());
    drop(links);
    assert!(
        inputs.recv().await.is_none(),
        "a task has outlived its connection"
    );
}

#[tokio::test]
async fn chunk_under_way_and_last_words_survive_the_close() {
    for busy in [true, false] {
        let (mut links, mut inputs, mut far) = connected().await;
        if busy {
            links.write(LINK, b"no, ".to_vec());
        }
        // Before the writing task had a chance to run.
        links.close(LINK, b"because".to_vec());
        let mut heard = Vec::new();
        far.read_to_end(&mut heard).await.unwrap();
        assert_eq!(
            heard,
            if busy {
                &b"no, because"[..]
            } else {
                b"because"
            }
        );
        drop(links);
        while let Some(input) = inputs.recv().await {
            assert!(matches!(input, Input::Written(LINK)), "{input:?}");
        }
    }
}

#[tokio::test]
async fn failed_dial_tells_why() {
    let (sender, mut inputs) = mpsc::channel(INPUT_COUNT);
    let mut links = Links::new(LOOPBACK, sender);
    let listener = listen(SocketAddr::new(LOOPBACK, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    links.dial(LINK, address);
    let Input::Dialled(LINK, Err(reason)) = next(&mut inputs).await else {
        panic!("connected to nobody");
    };
    assert_eq!(reason, "connection refused");
}

#[tokio::test]
async fn names_are_looked_up() {
    let (sender, mut inputs) = mpsc::channel(INPUT_COUNT);
    let links = Links::new(LOOPBACK, sender);
    links.resolve("localhost".to_owned());
    let Input::Resolved(host, Ok(found)) = next(&mut inputs).await else {
        panic!("localhost is unknown");
    };
    assert_eq!(
        (host.as_str(), found.contains(&LOOPBACK)),
        ("localhost", true)
    );
    links.resolve("192.0.2.1".to_owned());
    let Input::Resolved(_, Ok(found)) = next(&mut inputs).await else {
        panic!("an address is unknown");
    };
    assert_eq!(found, [IpAddr::from([192, 0, 2, 1])]);
}

#[tokio::test]
async fn accepted_connections_are_reported() {
    let (sender, mut inputs) = mpsc::channel(INPUT_COUNT);
    let listener = listen(SocketAddr::new(LOOPBACK, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = tokio::spawn(accept(listener, sender));
    let far = TcpStream::connect(address).await.unwrap();
    let Input::Accepted {
        stream,
        remote,
        local,
    } = next(&mut inputs).await
    else {
        panic!("not accepted");
    };
    assert_eq!((remote, local), (far.local_addr().unwrap(), address));
    assert!(stream.nodelay().unwrap());
    drop(inputs);
    let _second = TcpStream::connect(address).await.unwrap();
    timeout(Duration::from_secs(5), accepting)
        .await
        .unwrap()
        .unwrap();
}

#[test]
fn errors_lose_their_number() {
    let refused = io::Error::from_raw_os_error(libc::ECONNREFUSED);
    assert_eq!(describe(&refused), "connection refused");
    assert_eq!(describe(&io::Error::other("Plain words")), "Plain words");
}
