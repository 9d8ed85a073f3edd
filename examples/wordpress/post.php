<?php
// An editor publishes a post with an upload: php post.php DIRECTORY TITLE. Prints the upload's path.
$_SERVER['HTTP_HOST'] = getenv('HTTP_HOST');
$_SERVER['REQUEST_URI'] = '/';
[, $directory, $title] = $argv;
chdir($directory);
require 'wp-load.php';
// The file first, then the row that names it, as WordPress itself does it.
$upload = wp_upload_bits(sanitize_title($title) . '.txt', null, "written for: $title\n");
if ($upload['error']) {
    fwrite(STDERR, $upload['error'] . "\n");
    exit(1);
}
$body = 'See <a href="' . $upload['url'] . '">the upload</a>.';
$post = wp_insert_post(['post_title' => $title, 'post_content' => $body, 'post_status' => 'publish', 'post_author' => 1], true);
if (is_wp_error($post)) {
    fwrite(STDERR, $post->get_error_message() . "\n");
    exit(1);
}
wp_insert_attachment(['post_title' => $title, 'post_mime_type' => 'text/plain', 'guid' => $upload['url']], $upload['file'], $post);
echo substr($upload['file'], strlen(ABSPATH)), "\n";
