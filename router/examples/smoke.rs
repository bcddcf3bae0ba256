//! temp: smoke NAME PORTBIND PASSWORD|- [peers..]
use router::io::tap::*;
use router::io::*;
use router::mesh::*;
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    tracing_subscriber::fmt()
        .with_env_filter(std::env::var("LOG").unwrap_or("info".into()))
        .with_writer(std::io::stderr)
        .init();
    let a: Vec<String> = std::env::args().collect();
    let tap = Tap::open("wtap").unwrap();
    for c in ["link set wtap mtu 65521", "link set wtap master weave up"] {
        assert!(
            std::process::Command::new("ip")
                .args(c.split(' '))
                .status()
                .unwrap()
                .success()
        );
    }
    let mut seed = [0; 32];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom").unwrap(), &mut seed)
        .unwrap();
    let mut r = Router::start(RouterConfig {
        mesh: MeshConfig {
            name: a[1].parse().unwrap(),
            nickname: a[1].clone(),
            password: router::crypto::session::Password::new(a[2].replace('-', "").into_bytes()),
            versions: Default::default(),
            overlays: vec!["sleeve".into()],
            port: 6783,
            discovery: true,
            conn_limit: 200,
            trusted_subnets: vec![],
        },
        bind: std::net::Ipv4Addr::UNSPECIFIED,
        device: Some(Box::new(tap)),
        channels: vec![],
        seed,
    })
    .unwrap();
    let h = r.handle();
    h.connect(a[3..].to_vec(), false).await.unwrap();
    let mut usr =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::user_defined1()).unwrap();
    let mut term =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
    loop {
        tokio::select! { _=usr.recv()=>{ eprintln!("{:#?}", h.status().await.unwrap()) }, _=term.recv()=>{ h.shutdown().await; return }, f=r.failed()=>{ eprintln!("FAILED {f}"); return } }
    }
}
