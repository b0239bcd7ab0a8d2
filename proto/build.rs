//! Compiles the protocol buffers with protox, so that no `protoc` is needed for ours.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=estafet");
    let files = ["estafet/v1/data.proto", "estafet/v1/chat.proto", "estafet/v1/cluster.proto"];
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
